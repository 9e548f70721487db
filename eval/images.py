"""Images from a folder, a zip, tar or npz file, or a Python iterable, decoded ahead in threads, bad ones counted."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffguide.pipelines.errors import UserError, one_line

from .archives import MAX_CAPTION, MAX_FILE, TAR_SUFFIXES, Entry, NpzImages, TarImages, ZipImages, is_image
from .decode import Bad, decode

THREADS = min(8, os.cpu_count() or 1)
AHEAD = 64  # images decoded before they are asked for


@dataclass
class Batch:
    """Images in their order. images: of one size (N, 3, H, W), or a list of (3, H, W), uint8 or floats in [0, 1]."""

    images: Tensor | list[Tensor]
    names: list[str]
    captions: list[str | None]

    def __len__(self) -> int:
        return len(self.names)

    def groups(self) -> list[Tensor]:
        """The images as (N, 3, H, W), neighbours of one size together."""
        if isinstance(self.images, Tensor):
            return [self.images]
        groups: list[list[Tensor]] = []
        for image in self.images:
            if groups and groups[-1][0].shape == image.shape:
                groups[-1].append(image)
            else:
                groups.append([image])
        return [torch.stack(group) for group in groups]


@dataclass
class Images:
    """Where images come from.

    label: for messages. count: how many, as far as known before decoding. convert: take what loses something by it:
    transparency (on white), grayscale, CMYK, 16 bits, images of several sizes. skip_bad: leave out what cannot be used.
    bad: what was left out in the latest pass.
    """

    label: str
    source: Iterable[Any]
    count: int | None = None
    convert: bool = False
    skip_bad: bool = False
    bad: list[Bad] = field(default_factory=list)

    def batches(self, size: int, threads: int = THREADS) -> Iterator[Batch]:
        """The images, `size` at a time. Decoding goes on in threads while the caller is at work.

        UserError: there is no image, or there are bad ones and `skip_bad` is off: one line that counts them by kind,
        after all files were looked at.
        """
        self.bad = []
        pixels: list[Tensor] = []
        names, captions = list[str](), list[str | None]()
        shape: torch.Size | None = None
        found = False
        for name, image, caption in self._decoded(threads):
            if isinstance(image, Tensor) and not self.convert:
                shape = shape or image.shape
                if image.shape != shape:
                    sizes = f"{image.shape[2]} x {image.shape[1]}, the first is {shape[2]} x {shape[1]}"
                    image = Bad(name, "of another size", sizes, convertible=True)
            if isinstance(image, Bad):
                self.bad.append(image)
                pixels, names, captions = ([], [], []) if not self.skip_bad else (pixels, names, captions)
            elif self.skip_bad or not self.bad:
                pixels.append(image)
                names.append(name)
                captions.append(caption)
            found = found or bool(names)
            if len(names) == size:
                yield _batch(pixels, names, captions)
                pixels, names, captions = [], [], []
        if self.bad and not self.skip_bad:
            raise UserError(self._complaint())
        if names:
            yield _batch(pixels, names, captions)
        elif not found:
            raise UserError(f"{self.label} holds no image" + (f": {summary(self.bad)}" if self.bad else ""))

    def _decoded(self, threads: int) -> Iterator[tuple[str, Tensor | Bad, str | None]]:
        with ThreadPoolExecutor(max(1, threads), thread_name_prefix="decode") as pool:
            queue: deque[tuple[str, Future[Tensor | Bad] | Tensor | Bad, str | None]] = deque()
            try:
                for name, content, caption in self.source:
                    task = pool.submit(decode, content, name, self.convert) if isinstance(content, bytes) else content
                    queue.append((name, task, caption))
                    if len(queue) >= AHEAD:
                        yield _result(*queue.popleft())
                while queue:
                    yield _result(*queue.popleft())
            finally:
                for _, task, _ in queue:
                    if isinstance(task, Future):
                        task.cancel()

    def _complaint(self) -> str:
        first = self.bad[0]
        ways = ["--skip-bad leaves them out"]
        if any(bad.convertible for bad in self.bad):
            ways.append("--convert takes those that can be converted")
        detail = f" ({first.detail})" if first.detail else ""
        return (
            f"{self.label}: {summary(self.bad)}; the first is {first.name!r}: {first.kind}{detail}. {', '.join(ways)}"
        )


def summary(bad: list[Bad]) -> str:
    """How many of which kind, "3 truncated or damaged, 1 animated"."""
    counts: dict[str, int] = {}
    for one in bad:
        counts[one.kind] = counts.get(one.kind, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def open_images(source: Any, *, convert: bool = False, skip_bad: bool = False) -> Images:
    """Images from a folder (with all below it, by name), a zip, tar or npz file, or an iterable.

    Args:
        source: a path, or an iterable of tensors (3, H, W) or (N, 3, H, W), floats in [0, 1] or uint8, or PIL images;
            a generator can be read once only.
        convert, skip_bad: see `Images`.

    Raises:
        UserError: there is nothing at the path, or it is of another kind.
    """
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
            files = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
        except OSError as error:
            raise UserError(f"cannot read {str(path)!r}: {error.strerror or one_line(error)}") from error
        self.images = sorted(name for name in files if is_image(name))

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
                return file.read(MAX_CAPTION).decode("utf-8", "replace").strip()
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
    import numpy as np
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise UserError(f"images must be tensors or PIL images, not {type(image).__name__}")
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _checked(image: Tensor, index: int) -> Tensor:
    if image.dtype == torch.uint8:
        return image.contiguous()
    low, high = image.min(), image.max()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN too
        raise UserError(
            f"image {index} has values from {float(low):.4g} to {float(high):.4g}: floats must be in [0, 1]"
        )
    return image.detach().float().clamp(0, 1)


def _result(name: str, task: Any, caption: str | None) -> tuple[str, Tensor | Bad, str | None]:
    return name, task.result() if isinstance(task, Future) else task, caption


def _batch(pixels: list[Tensor], names: list[str], captions: list[str | None]) -> Batch:
    same = all(image.shape == pixels[0].shape and image.dtype == pixels[0].dtype for image in pixels)
    return Batch(torch.stack(pixels) if same else pixels, names, captions)
