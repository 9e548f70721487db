"""How images are brought to the size of a network. The choice changes FID by more than most methods do.

torch-fidelity   bilinear as in TensorFlow 1, without anti-aliasing: what FID papers, EDM and ADM use
pytorch-fid      bilinear of PyTorch, without anti-aliasing: pytorch-fid and clean-fid's legacy_pytorch
clean            bicubic with anti-aliasing, as Pillow: clean-fid
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from diffguide.pipelines.errors import unknown


def tensorflow(x: Tensor, side: int) -> Tensor:
    """`tf.image.resize_bilinear` of TensorFlow 1: pixel i of the result is at i * W / side, no half a pixel's shift.

    Bit for bit what torch-fidelity does on the CPU.
    """
    height, width = x.shape[2:]
    rows, below, dy = _taps(height, side, x)
    columns, right, dx = _taps(width, side, x)
    dy = dy[:, None]

    def across(part: Tensor) -> Tensor:
        left = part.index_select(3, columns)
        return left + (part.index_select(3, right) - left) * dx

    if height <= side:  # each row is needed more than once
        x = across(x)
        above, under = x.index_select(2, rows), x.index_select(2, below)
    else:
        above, under = across(x.index_select(2, rows)), across(x.index_select(2, below))
    return above + (under - above) * dy


def _taps(size: int, side: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels that each pixel of the result lies between, and how far it is from the first."""
    where = torch.arange(side, device=like.device, dtype=torch.float32) * torch.tensor(size / side, dtype=torch.float32)
    low = where.long()
    return low, (low + 1).clamp_max(size - 1), (where - low).to(like.dtype)


def pytorch(x: Tensor, side: int) -> Tensor:
    """Bilinear, pixels by their centres, no anti-aliasing."""
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False)


def clean(x: Tensor, side: int) -> Tensor:
    """Bicubic with anti-aliasing, clipped to [0, 255]: Pillow's on each channel in float."""
    return F.interpolate(x, (side, side), mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)


RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "torch-fidelity": tensorflow,
    "pytorch-fid": pytorch,
    "clean": clean,
}
"""Images (N, 3, H, W) in [0, 255] and a side -> (N, 3, side, side)."""

DEFAULT_RESIZE = "torch-fidelity"


def check_resize(name: str) -> str:
    """`name`, if it is one of RESIZES; UserError if not."""
    if name not in RESIZES:
        raise unknown("resize", name, RESIZES)
    return name
