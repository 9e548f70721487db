"""Three measures of how a picture looks, one value per image: they show the burning that large scales bring."""

from __future__ import annotations

import torch
from torch import Tensor


def saturation(images: Tensor) -> Tensor:
    """Mean over pixels of HSV S = (max - min) / max, 0 for black. (N, 3, H, W) in [0, 1] -> (N,) in [0, 1]."""
    high, low = images.amax(1), images.amin(1)
    return torch.where(high > 0, (high - low) / high.clamp(min=1e-12), 0).mean((1, 2))


def contrast(images: Tensor) -> Tensor:
    """RMS contrast: standard deviation of luma (Rec. 601) over pixels. (N, 3, H, W) in [0, 1] -> (N,) in [0, 0.5]."""
    return luma(images).std((1, 2), correction=0)


def luma(images: Tensor) -> Tensor:
    """Rec. 601, as Pillow's mode L. (N, 3, H, W) in [0, 1] -> (N, H, W) in [0, 1]."""
    return torch.einsum("nchw,c->nhw", images, images.new_tensor((0.299, 0.587, 0.114)))


def clipping(images: Tensor) -> Tensor:
    """Share of the channel values that are 0 or 255 in 8 bits. (N, 3, H, W) in [0, 1] -> (N,) in [0, 1]."""
    levels = images.mul(255).round()
    return ((levels <= 0) | (levels >= 255)).to(images.dtype).mean((1, 2, 3))
