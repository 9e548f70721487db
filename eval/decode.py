"""One image file to pixels, or the reason why not. The bytes are untrusted."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from diffguide.pipelines.errors import one_line

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # others, such as EPS, run far too much code
MAX_PIXELS = 2**26  # 8192 x 8192
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_GRAY = ("1", "L", "LA", "La")
_CLEAR = ("RGBA", "RGBa", "PA")
_OTHER_COLOURS = ("YCbCr", "LAB", "HSV")


@dataclass(frozen=True)
class Bad:
    """An image that cannot be used as it is. kind: one of a few words. convertible: under `convert` it can."""

    name: str
    kind: str
    detail: str = ""
    convertible: bool = False


def decode(data: bytes, name: str, convert: bool = False) -> Tensor | Bad:
    """The pixels of an image file, (3, H, W) uint8.

    As they are: 8-bit RGB, palettes of it, and an alpha channel that is opaque throughout. With `convert` also, on
    white, what is transparent; grayscale; CMYK; 16 bits, of which the upper 8 count. Never: what is truncated, animated
    or no image, or has more than MAX_PIXELS. Of a JPEG with further pictures behind it, as phones write, the first one
    counts. Orientation tags are left alone, as other tools do.
    """
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        return Bad(name, "not an image", "empty file" if not data else "")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Bad(name, "too large", f"more than {MAX_PIXELS} pixels")
    except Exception as error:  # damaged headers make Pillow's readers raise nearly anything
        return Bad(name, "damaged", one_line(error, 80))
    with image:
        if image.width * image.height > MAX_PIXELS:
            return Bad(name, "too large", f"{image.width} x {image.height}")
        try:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames > 1:
                return Bad(name, "animated", f"{frames} frames")
            deep = image.mode in _DEEP or any("16" in mode for mode in _raw_modes(image))
            image.load()
        except Exception as error:
            return Bad(name, "truncated or damaged", one_line(error, 80))
        return _pixels(image, name, deep, convert)


def pixels_of(image: Image.Image) -> Tensor:
    """(3, H, W) uint8: the pixels of a picture as 8-bit RGB, in memory of their own."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def _raw_modes(image: ImageFile.ImageFile) -> list[str]:
    """How pixels are laid out in a PNG or TIFF file, before it is loaded; "RGB;16B"."""
    if image.format not in ("PNG", "TIFF"):
        return []
    arguments = [tile[3] for tile in image.tile]
    return [str(given[0] if isinstance(given, tuple) else given) for given in arguments]


def _pixels(image: Image.Image, name: str, deep: bool, convert: bool) -> Tensor | Bad:
    mode = image.mode
    kind = ""
    if deep:
        kind = "16-bit"
    elif mode in _GRAY:
        kind = "grayscale"
    elif mode in _CLEAR or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            kind = "transparent"
    elif mode == "CMYK":
        kind = "CMYK"
    elif mode in _OTHER_COLOURS:
        kind = mode
    if kind and not convert:
        return Bad(name, kind, mode, convertible=True)
    if deep and mode in _DEEP:
        values = np.asarray(image).astype(np.float64)
        if mode == "F" or values.min() < 0 or values.max() > 65535:
            return Bad(name, "more than 16 bits", mode)
        image = Image.fromarray((values // 256).astype(np.uint8))
    if ("transparency" in image.info and not deep) or image.mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return pixels_of(image)
