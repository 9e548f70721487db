"""Laplacian pyramids as `kornia.geometry` builds them, which is what the authors of FDG use.

Down is a blur with the 5-tap binomial, borders reflected, and a bilinear halving; up is a bilinear doubling and the
same blur. Each is one separable filter, and written as a sum of shifted tensors: a convolution may be allowed to round
to TF32.
All tensors are (B, channels, height, width).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# What the binomial, (1, 4, 6, 4, 1) / 16, makes of the mean of two neighbours, and of the values a quarter from each.
_HALVING = (1 / 32, 5 / 32, 10 / 32, 10 / 32, 5 / 32, 1 / 32)
_DOUBLING = (1 / 64, 21 / 64, 35 / 64, 7 / 64)


def padded(x: Tensor, levels: int, whole: bool) -> Tensor:
    """(B, C, H', W') from (B, ..., H, W): made 4-D, and padded at the right and the bottom where kornia pads.

    whole: as far as kornia does, to the next power of two; if not, only as far as the first H x W of a rebuilt image
    can depend on. ValueError for sides that are too small for the levels.
    """
    x = x.flatten(1, -3)
    stride = 1 << (levels - 1)
    sides = x.shape[-2:]
    if any(side % stride for side in sides) or not any(side & (side - 1) == 0 for side in sides):
        reach = 7 * (stride - 1)  # of a rebuilt pixel: 7 pixels a level, each twice those of the level above
        ends = [1 << (side - 1).bit_length() for side in sides]
        if not whole:
            ends = [min(end, -(-(side + reach) // stride) * stride) for end, side in zip(ends, sides)]
        x = F.pad(x, (0, ends[1] - sides[1], 0, ends[0] - sides[0]), mode="reflect")
    if min(x.shape[-2:]) * 2 // stride < 3:
        raise ValueError(f"latents of {sides[0]} x {sides[1]} are too small for {levels} levels of frequency")
    return x


def gaussians(x: Tensor, levels: int) -> list[Tensor]:
    """The Gaussian pyramid, from fine to coarse, x itself first."""
    pyramid = [x]
    while len(pyramid) < levels:
        pyramid.append(_down(pyramid[-1]))
    return pyramid


def bands(pyramid: list[Tensor]) -> list[Tensor]:
    """The Laplacian pyramid of a Gaussian one, from high to low frequency."""
    return [*(fine - _up(coarse) for fine, coarse in zip(pyramid, pyramid[1:])), pyramid[-1]]


def rebuilt(laplacian: list[Tensor]) -> Tensor:
    """The image whose Laplacian pyramid it is."""
    *finer, image = laplacian
    for band in reversed(finer):
        image = _up(image).add_(band)
    return image


def weighted(pyramid: list[Tensor], factors: list[float]) -> Tensor:
    """`rebuilt` from the bands of a Gaussian pyramid times `factors`, at one up for each level rather than two."""
    image = pyramid[-1] * factors[-1]
    for k in reversed(range(len(pyramid) - 1)):
        image = _up(image.sub_(pyramid[k + 1], alpha=factors[k])).add_(pyramid[k], alpha=factors[k])
    return image


def _down(x: Tensor) -> Tensor:
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    for dim in (-2, -1):
        count = x.shape[dim] // 2 - 2
        phases = x.unflatten(dim, (-1, 2)).unbind(dim)
        x = _sum([phases[k % 2].narrow(dim, k // 2, count) for k in range(6)], _HALVING)
    return x


def _up(x: Tensor) -> Tensor:
    """Every second value from the four nearest, the others from the mirrored four.

    What extends x at its ends makes that exact there too, where the authors hold the border while doubling and reflect
    the doubled image while blurring.
    """
    for dim in (-2, -1):
        count = x.shape[dim]
        first, second, before, last = (x.narrow(dim, k, 1) for k in (0, 1, count - 2, count - 1))
        even = torch.cat([7 * second - 6 * first, first, x, (6 * last + before) / 7], dim)
        odd = torch.cat([(6 * first + second) / 7, x, last, 7 * before - 6 * last], dim)
        evens = _sum([even.narrow(dim, k, count) for k in range(4)], _DOUBLING)
        odds = _sum([odd.narrow(dim, k, count) for k in range(4)], _DOUBLING[::-1])
        x = torch.stack([evens, odds], dim).flatten(dim - 1, dim)
    return x


def _sum(terms: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    total = terms[0] * weights[0]
    for term, weight in zip(terms[1:], weights[1:]):
        total.add_(term, alpha=weight)
    return total
