"""Networks that turn images into features, as objects of one shape.

An extractor is called with images (N, 3, H, W), floats in [0, 1] or uint8, and gives features (N, dim) in float32. It
brings the images to the size of its network by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffguide.pipelines.devices import check_dtype, resolve_device
from diffguide.pipelines.errors import UserError

from .networks import check_extractor


class FeatureExtractor(Protocol):
    """What all extractors have: see the top of this file.

    name: of the network. dim: features. resize: how images are brought to the network's size. weights_hash: of the
    weights, the same wherever they were read from.
    """

    name: str
    dim: int
    resize: str
    weights_hash: str

    def __call__(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) floats in [0, 1] or uint8 -> (N, dim) float32."""
        ...


class Extractor:
    """The usual extractor: resize, normalise, run a network.

    Args:
        name: of the network.
        network: (N, 3, side, side) -> (N, dim).
        dim: features.
        side: of the network's input, in pixels.
        resize: its name, and the function for images in [0, 255].
        mean, std: of the normalisation (x - mean) / std, for x in [0, 255]; one number, or one a channel.
        weights_hash: see `hash_weights`.
        classifier: (classes, dim), from features to logits without their bias; None: the network has none.
        device, dtype: where the network runs, and its dtype.
        reentrant: several threads may run the network at the same time.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        *,
        dim: int,
        side: int,
        resize: tuple[str, Callable[[Tensor, int], Tensor]],
        mean: float | tuple[float, ...],
        std: float | tuple[float, ...],
        weights_hash: str,
        classifier: Tensor | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        reentrant: bool = False,
    ):
        self.name, self.dim, self.side, self.weights_hash = name, dim, side, weights_hash
        self.resize, self._resize = resize
        self.device, self.dtype = torch.device(device), dtype
        self.concurrent = reentrant and self.device.type == "cpu"
        self.network = network.eval().requires_grad_(False).to(self.device, dtype)
        self.network = self.network.to(memory_format=torch.channels_last)
        self.classifier = classifier
        self._mean, self._std = (torch.as_tensor(v, device=self.device).reshape(-1, 1, 1) for v in (mean, std))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) floats in [0, 1] or uint8 -> (N, dim) float32. ValueError: another shape."""
        return self.embed(self.prepare(images))

    @torch.inference_mode()
    def prepare(self, images: Tensor) -> Tensor:
        """The images as the network takes them, (N, 3, side, side)."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, H, W), not {tuple(images.shape)}")
        x = images.to(self.device)
        x = x.float() if x.dtype == torch.uint8 else x.float() * 255
        if x.shape[2:] != (self.side, self.side):
            x = self._resize(x, self.side)
        return (x - self._mean).div_(self._std)

    @torch.inference_mode()
    def embed(self, x: Tensor) -> Tensor:
        """What `prepare` gave -> (N, dim) float32."""
        return self.network(x.to(self.dtype, memory_format=torch.channels_last)).float()


def load_extractor(
    name: str,
    weights: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    resize: str | None = None,
) -> FeatureExtractor:
    """A network with its weights.

    Args:
        name: "inception", "efficientnet-lite0", "dinov2" or "clip"; the last two also as "dinov2:ID_OR_PATH".
        weights: for inception a checkpoint (see `inception_weights`); for dinov2 and clip a hub id or a folder; None:
            installed or cached weights, facebook/dinov2-large, the embedded emoji-clip.
        device: None and "auto": CUDA where there is one, else the CPU.
        dtype: of the network: None, "auto" and float32 give parity with other tools; bfloat16 is faster on GPUs.
        resize: for inception, one of `resize.RESIZES`; None: torch-fidelity.

    Raises:
        UserError: an unknown name, weights that are not there or do not fit, a resize for another network than
            Inception, an unknown device, or float16 on the CPU.
    """
    network, weights = check_extractor(name, weights, resize)
    where = resolve_device(device)
    if not isinstance(dtype, torch.dtype):
        chosen = check_dtype(dtype or "auto")
        dtype = torch.float32 if chosen == "auto" else getattr(torch, chosen)
    if dtype == torch.float16 and where.type == "cpu":
        raise UserError("float16 is for GPUs: use float32 or bfloat16 on the CPU")
    options: dict[str, Any] = {"device": where, "dtype": dtype}
    if network == "inception":
        from .inception_weights import load_inception

        return load_inception(weights, resize, **options)
    if network == "efficientnet-lite0":
        from .efficientnet import load_efficientnet

        return load_efficientnet(**options)
    from .towers import load_clip, load_dinov2

    return (load_dinov2 if network == "dinov2" else load_clip)(weights, **options)


def hash_weights(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits of the SHA-256 of names, shapes and values in float32, by the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]
