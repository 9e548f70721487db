"""Images as the network of a reward takes them: resized, cropped, normalised, with gradients all the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .tensors import precise

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's, for images in [0, 1]; LAION's CLIP models, PickScore and HPSv2.1 have the same."""


@dataclass(frozen=True)
class Preparation:
    """The steps, in this order; None leaves one out.

    size: of the resize, bicubic and antialiased: an int for the shortest edge, or (height, width). crop: side of the
    square cut from the middle. mean, std: one number a channel, of the normalisation (x - mean) / std.
    """

    size: int | tuple[int, int] | None = None
    crop: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 3, h, w). What is outside [0, 1] is clipped, as in a picture on the disk."""
        x = precise(images).clamp(0, 1)
        if self.size is not None:
            x = self._resized(x, self.size)
        if self.crop is not None:
            top, left = (x.shape[2] - self.crop) // 2, (x.shape[3] - self.crop) // 2
            x = x[..., top : top + self.crop, left : left + self.crop]
        if self.mean is not None and self.std is not None:  # numbers, not tensors: nothing to bring to the device
            x = torch.stack([(c - m) / s for c, m, s in zip(x.unbind(1), self.mean, self.std)], dim=1)
        return x

    @staticmethod
    def _resized(x: Tensor, size: int | tuple[int, int]) -> Tensor:
        height, width = x.shape[2:]
        if isinstance(size, int):
            short = min(height, width)
            size = (size * height // short, size * width // short)
        # Bicubic overshoots at edges; Pillow, too, goes along the rows first and clips after each of the two.
        for target in ((height, size[1]), size):
            if target != tuple(x.shape[2:]):
                x = F.interpolate(x, target, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        return x

    @property
    def side(self) -> int | None:
        """Of the square that comes out, None where it depends on what goes in."""
        if self.crop is not None:
            return self.crop
        return self.size[0] if isinstance(self.size, tuple) and self.size[0] == self.size[1] else None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preparation:
        """From a preprocessor_config.json of transformers; what it leaves out is CLIP's. ValueError: it is another."""
        try:
            size, crop = config.get("size", {"shortest_edge": 224}), config.get("crop_size", 224)
            if isinstance(size, Mapping):
                size = size["shortest_edge"] if "shortest_edge" in size else (int(size["height"]), int(size["width"]))
            crop = crop["height"] if isinstance(crop, Mapping) else crop
            mean, std = _floats(config.get("image_mean", CLIP_MEAN)), _floats(config.get("image_std", CLIP_STD))
            normalised = config.get("do_normalize", True)
            return cls(
                size=(size if isinstance(size, tuple) else int(size)) if config.get("do_resize", True) else None,
                crop=int(crop) if config.get("do_center_crop", True) else None,
                mean=mean if normalised else None,
                std=std if normalised else None,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the preprocessor_config.json is not that of a CLIP image processor ({error!r})"
            ) from error

    def to_config(self) -> dict[str, Any]:
        """The same as transformers writes it."""
        size, crop = self.size, self.crop
        named = {"height": size[0], "width": size[1]} if isinstance(size, tuple) else {"shortest_edge": size}
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": size is not None,
            "do_center_crop": crop is not None,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": self.mean is not None,
            "resample": 3,
            **({} if size is None else {"size": named}),
            **({} if crop is None else {"crop_size": {"height": crop, "width": crop}}),
            **({} if self.mean is None or self.std is None else {"image_mean": self.mean, "image_std": self.std}),
        }


def _floats(values: float | Sequence[float]) -> tuple[float, ...]:
    return (float(values),) * 3 if isinstance(values, (int, float)) else tuple(float(value) for value in values)
