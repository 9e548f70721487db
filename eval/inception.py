"""Inception-2015-12-05, the network of FID, rebuilt to be fast.

Same function, less work than the original graph: batch normalisation is folded into the convolutions, all 1x1
convolutions that read one input are one convolution, average pooling comes after its 1x1 convolution (both are linear,
and there it has a quarter of the channels), and memory is channels-last. Equal to the original up to float32 rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, DIM = 299, 2048
Weights = dict[str, tuple[Tensor, Tensor]]


class Conv(nn.Module):
    """Convolution, and a ReLU behind it unless `linear`. `same`: zeros around keep the spatial size at stride 1."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int = 1, same: bool = True, linear: bool = False):
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = nn.Parameter(bias.clone(), requires_grad=False)
        self.stride, self.linear = stride, linear
        self.pointwise = weight.shape[2:] == (1, 1)
        self.padding = (weight.shape[2] // 2, weight.shape[3] // 2) if same else (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        if self.pointwise and x.device.type == "cpu":
            x = self._pixels(x)
        else:
            x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return x if self.linear else F.relu_(x)

    def _pixels(self, x: Tensor) -> Tensor:
        """A 1x1 convolution, each row of pixels as an image of its own: the same memory, and no copy.

        For few images on one thread torch would take another way, which is slower on many processors.
        """
        n, _, h, w = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(n * h, 1, w, -1).permute(0, 3, 1, 2)
        y = F.conv2d(rows, self.weight, self.bias).permute(0, 2, 3, 1)
        return y.reshape(n, h, w, -1).permute(0, 3, 1, 2)


class Heads(nn.Module):
    """The 1x1 convolutions at the head of a block as one; the last `pooled` one is average-pooled before its ReLU."""

    def __init__(self, weights: list[tuple[Tensor, Tensor]], pooled: bool = False):
        super().__init__()
        self.widths, self.pooled = [len(bias) for _, bias in weights], pooled
        self.conv = Conv(torch.cat([w for w, _ in weights]), torch.cat([b for _, b in weights]), linear=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> one (N, C_i, H, W) per convolution."""
        parts = list(self.conv(x).split(self.widths, dim=1))
        if self.pooled:
            # TensorFlow leaves the zeros around the image out of the average.
            last = parts[-1].contiguous(memory_format=torch.channels_last)
            parts[-1] = F.avg_pool2d(last, 3, stride=1, padding=1, count_include_pad=False)
        return [F.relu(part) for part in parts]


def _chain(weights: Weights, names: list[str]) -> nn.Sequential:
    return nn.Sequential(*(Conv(*weights[name]) for name in names))


class BlockA(nn.Module):
    """Mixed_5b, 5c, 5d, at 35 x 35."""

    def __init__(self, w: Weights, b: str):
        super().__init__()
        names = ["branch1x1", "branch5x5_1", "branch3x3dbl_1", "branch_pool"]
        self.heads = Heads([w[f"{b}.{name}"] for name in names], pooled=True)
        self.five = Conv(*w[f"{b}.branch5x5_2"])
        self.three = _chain(w, [f"{b}.branch3x3dbl_2", f"{b}.branch3x3dbl_3"])

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        one, five, three, pool = self.heads(x)
        return torch.cat([one, self.five(five), self.three(three), pool], 1)


class BlockB(nn.Module):
    """Mixed_6a, 35 x 35 to 17 x 17."""

    def __init__(self, w: Weights, b: str):
        super().__init__()
        self.three = Conv(*w[f"{b}.branch3x3"], stride=2, same=False)
        self.deep = _chain(w, [f"{b}.branch3x3dbl_1", f"{b}.branch3x3dbl_2"])
        self.deep.append(Conv(*w[f"{b}.branch3x3dbl_3"], stride=2, same=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return torch.cat([self.three(x), self.deep(x), F.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """Mixed_6b to 6e, at 17 x 17."""

    def __init__(self, w: Weights, b: str):
        super().__init__()
        names = ["branch1x1", "branch7x7_1", "branch7x7dbl_1", "branch_pool"]
        self.heads = Heads([w[f"{b}.{name}"] for name in names], pooled=True)
        self.seven = _chain(w, [f"{b}.branch7x7_{i}" for i in (2, 3)])
        self.deep = _chain(w, [f"{b}.branch7x7dbl_{i}" for i in (2, 3, 4, 5)])

    def forward(self, x: Tensor) -> Tensor:
        """(N, 768, H, W) -> (N, 768, H, W)."""
        one, seven, deep, pool = self.heads(x)
        return torch.cat([one, self.seven(seven), self.deep(deep), pool], 1)


class BlockD(nn.Module):
    """Mixed_7a, 17 x 17 to 8 x 8."""

    def __init__(self, w: Weights, b: str):
        super().__init__()
        self.heads = Heads([w[f"{b}.branch3x3_1"], w[f"{b}.branch7x7x3_1"]])
        self.three = Conv(*w[f"{b}.branch3x3_2"], stride=2, same=False)
        self.seven = _chain(w, [f"{b}.branch7x7x3_{i}" for i in (2, 3)])
        self.seven.append(Conv(*w[f"{b}.branch7x7x3_4"], stride=2, same=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 768, H, W) -> (N, 1280, H', W')."""
        three, seven = self.heads(x)
        return torch.cat([self.three(three), self.seven(seven), F.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """Mixed_7b and 7c, at 8 x 8. `max_pool`: 7c pools by the maximum, in the graph of these weights only."""

    def __init__(self, w: Weights, b: str, max_pool: bool):
        super().__init__()
        names = ["branch1x1", "branch3x3_1", "branch3x3dbl_1"] + ["branch_pool"] * (not max_pool)
        self.heads = Heads([w[f"{b}.{name}"] for name in names], pooled=not max_pool)
        self.pool = Conv(*w[f"{b}.branch_pool"]) if max_pool else None
        self.three = nn.ModuleList(Conv(*w[f"{b}.branch3x3_2{side}"]) for side in "ab")
        self.deep = Conv(*w[f"{b}.branch3x3dbl_2"])
        self.ends = nn.ModuleList(Conv(*w[f"{b}.branch3x3dbl_3{side}"]) for side in "ab")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 2048, H, W)."""
        one, three, deep, *pool = self.heads(x)
        deep = self.deep(deep)
        if self.pool is not None:
            pool = [self.pool(F.max_pool2d(x, 3, stride=1, padding=1))]
        return torch.cat([one, *(c(three) for c in self.three), *(c(deep) for c in self.ends), *pool], 1)


class Inception(nn.Module):
    """Images of 299 x 299 in [-1, 1] to the 2048 pooled features.

    Args:
        weights: weight and bias of each convolution, as `inception_layers.folded_weights` gives them.
    """

    def __init__(self, weights: Weights):
        super().__init__()
        w = weights
        self.stem = nn.Sequential(
            Conv(*w["Conv2d_1a_3x3"], stride=2, same=False),
            Conv(*w["Conv2d_2a_3x3"], same=False),
            Conv(*w["Conv2d_2b_3x3"]),
            nn.MaxPool2d(3, 2),
            Conv(*w["Conv2d_3b_1x1"]),
            Conv(*w["Conv2d_4a_3x3"], same=False),
            nn.MaxPool2d(3, 2),
        )
        self.blocks = nn.Sequential(
            *(BlockA(w, f"Mixed_5{letter}") for letter in "bcd"),
            BlockB(w, "Mixed_6a"),
            *(BlockC(w, f"Mixed_6{letter}") for letter in "bcde"),
            BlockD(w, "Mixed_7a"),
            BlockE(w, "Mixed_7b", max_pool=False),
            BlockE(w, "Mixed_7c", max_pool=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 299, 299) in [-1, 1] -> (N, 2048)."""
        x = x.contiguous(memory_format=torch.channels_last)
        return self.blocks(self.stem(x)).mean((2, 3))
