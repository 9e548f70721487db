"""Where images come from: a folder, a zip, tar or npz file, or a Python iterable."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffguide.pipelines.errors import UserError, one_line
from diffguide.pipelines.folders import files_below
from diffguide.pipelines.metadata import is_sheet

from .archives import MAX_CAPTION, MAX_FILE, TAR_SUFFIXES, Entry, NpzImages, TarImages, ZipImages, caption_in, is_image
from .decode import Bad, pixels_of
from .images import Images


def open_images(source: Any, convert: bool = False, skip_bad: bool = False) -> Images:
    """Images from a folder (with all below it, links too, by name), a zip, tar or npz file, or an iterable.

    Args:
        source: a path, or an iterable of tensors (3, H, W) or (N, 3, H, W), floats in [0, 1] or uint8, or PIL images;
            a generator can be read once only. An `Images` is returned as it is.
        convert, skip_bad: see `Images`.

    Raises:
        UserError: there is nothing at the path, or it is of another kind.
    """
    if isinstance(source, Images):
        return source
    options: dict[str, Any] = {"convert": convert, "skip_bad": skip_bad}
    if not isinstance(source, (str, os.PathLike)):
        return Images(
            "the iterable", _Given(source), len(source) if isinstance(source, (list, tuple)) else None, **options
        )
    path, label = Path(source).expanduser(), repr(str(source))
    if path.is_dir():
        folder = _Folder(path)
        return Images(label, folder, len(folder.images), **options)
    if not path.is_file():
        raise UserError(f"there is no folder or file {label}")
    name = path.name.lower()
    kinds: dict[tuple[str, ...], Any] = {(".zip",): ZipImages, TAR_SUFFIXES: TarImages, (".npz",): NpzImages}
    for suffixes, kind in kinds.items():
        if name.endswith(suffixes):
            archive = kind(path)
            return Images(label, archive, len(archive.images), **options)
    raise UserError(f"{label} is not a source of images: expected a folder, .zip, .tar, .tar.gz or .npz")


class _Folder:
    """The image files of a folder and all below it, by name, each with the text beside it."""

    def __init__(self, path: Path):
        self.path = path
        try:
            files = [found.relative_to(path).as_posix() for found in files_below(path)]
        except OSError as error:
            raise UserError(f"cannot read {str(path)!r}: {error.strerror or one_line(error)}") from error
        # Of the pictures of `diffguide generate` their contact sheet is none.
        self.images = sorted(name for name in files if is_image(name) and not is_sheet(path / name))

    def __iter__(self) -> Iterator[Entry]:
        for name in self.images:
            yield name, self._read(name), self._caption((self.path / name).with_suffix(".txt"))

    def _read(self, name: str) -> bytes | Bad:
        try:
            if (self.path / name).stat().st_size > MAX_FILE:
                return Bad(name, "too large", f"more than {MAX_FILE} bytes")
            return (self.path / name).read_bytes()
        except OSError as error:
            return Bad(name, "unreadable", error.strerror or one_line(error))

    @staticmethod
    def _caption(path: Path) -> str | None:
        try:
            with open(path, "rb") as file:
                return caption_in(file.read(MAX_CAPTION))
        except OSError:
            return None


class _Given:
    """What a Python iterable holds, image by image."""

    def __init__(self, source: Iterable[Any]):
        self.source = source

    def __iter__(self) -> Iterator[tuple[str, Tensor, None]]:
        index = 0
        for entry in self.source:
            tensor = entry if isinstance(entry, Tensor) else _from_pil(entry)
            if tensor.ndim not in (3, 4) or tensor.shape[-3] != 3:
                raise UserError(f"images must be (3, H, W) or (N, 3, H, W), not {tuple(tensor.shape)}")
            for image in tensor.reshape(-1, *tensor.shape[-3:]):
                yield f"[{index}]", _checked(image, index), None
                index += 1


def _from_pil(image: Any) -> Tensor:
    if not isinstance(image, Image.Image):
        raise UserError(f"images must be tensors or PIL images, not {type(image).__name__}")
    return pixels_of(image)


def _checked(image: Tensor, index: int) -> Tensor:
    if image.dtype == torch.uint8:
        return image.contiguous()
    low, high = image.min(), image.max()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN too
        raise UserError(
            f"image {index} has values from {float(low):.4g} to {float(high):.4g}: floats must be in [0, 1]"
        )
    return image.detach().float().clamp(0, 1)
