"""Images in zip, tar and npz files, read in place: nothing is unpacked to the disk, so no name in one can lead out.

WebDataset: an image and a text of the same name, `00012.jpg` and `00012.txt`, are an image and its caption.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from diffguide.pipelines.errors import UserError, one_line
from diffguide.pipelines.metadata import HEAD, begins_a_sheet

from .decode import MAX_PIXELS, Bad
from .npz import DAMAGE, Npz

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
MAX_FILE = 2**28  # bytes of one image
MAX_CAPTION = 2**16  # bytes
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DAMAGE = (*DAMAGE, tarfile.TarError)

Entry = tuple[str, bytes | Bad, str | None]
"""Name, content (or why there is none) and caption of one image file."""


def is_image(name: str) -> bool:
    """Whether a file is an image by its name; hidden files and those of macOS archives are none."""
    path = PurePosixPath(name)
    hidden = any((part.startswith(".") and part.strip(".")) or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def caption_name(name: str) -> str:
    """The file that the caption of an image would be in."""
    return str(PurePosixPath(name).with_suffix(".txt"))


class ZipImages:
    """The images of a zip file, by name. UserError: it cannot be read."""

    def __init__(self, path: Path):
        self.path = path
        with _readable(path), zipfile.ZipFile(path) as file:
            names = [info.filename for info in file.infolist() if not info.is_dir()]
            self.images = sorted(name for name in names if is_image(name) and not self._is_sheet(file, name))
        self._all = set(names)

    def __iter__(self) -> Iterator[Entry]:
        with _readable(self.path), zipfile.ZipFile(self.path) as file:
            for name in self.images:
                text = caption_name(name)
                caption = caption_in(self._member(file, text, MAX_CAPTION)) if text in self._all else None
                yield name, self._member(file, name, MAX_FILE), caption

    @staticmethod
    def _is_sheet(file: zipfile.ZipFile, name: str) -> bool:
        try:
            with file.open(name) as member:
                return name.lower().endswith(".png") and begins_a_sheet(member.read(HEAD))
        except (*_DAMAGE, OSError):
            return False  # which is told when it is read

    def _member(self, file: zipfile.ZipFile, name: str, limit: int) -> bytes | Bad:
        info = file.getinfo(name)
        if info.file_size > limit:
            return Bad(name, "too large", f"{info.file_size} bytes")
        try:
            return file.read(info)
        except (*_DAMAGE, OSError) as error:
            return Bad(name, "damaged", one_line(error, 80))


class TarImages:
    """The images of a tar file, compressed or not, in its own order. UserError: it cannot be read, or is cut off."""

    def __init__(self, path: Path):
        self.path, self.images, self._captions = path, list[str](), dict[str, str | None]()
        self._sheets = set[str]()
        for name, member, file in self._members():
            if is_image(name):
                if name.lower().endswith(".png") and begins_a_sheet(self._head(file, member)):
                    self._sheets.add(name)
                else:
                    self.images.append(name)
            elif name.endswith(".txt"):
                self._captions[name] = caption_in(self._content(file, member, name, MAX_CAPTION))

    def __iter__(self) -> Iterator[Entry]:
        for name, member, file in self._members():
            if is_image(name) and name not in self._sheets:
                yield name, self._content(file, member, name, MAX_FILE), self._captions.get(caption_name(name))

    def _members(self) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
        with _readable(self.path), tarfile.open(self.path, tarinfo=_Member) as file:
            for member in file:
                if member.isreg():  # links and devices are not followed
                    yield member.name.removeprefix("./"), member, file
                file.members = []  # type: ignore[attr-defined]  # its list of what it has seen would grow with the archive

    @staticmethod
    def _head(file: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        stream = file.extractfile(member)
        return stream.read(HEAD) if stream else b""

    def _content(self, file: tarfile.TarFile, member: tarfile.TarInfo, name: str, limit: int) -> bytes | Bad:
        if member.size > limit:
            return Bad(name, "too large", f"{member.size} bytes")
        stream = file.extractfile(member)
        data = stream.read(limit) if stream else b""
        return data if len(data) == member.size else Bad(name, "damaged", "the archive ends within it")


class _Member(tarfile.TarInfo):
    """A member whose archive must be whole: `tarfile` takes any block that is no header for the end."""

    @classmethod
    def fromtarfile(cls, file: tarfile.TarFile) -> _Member:
        """The next member. ReadError: there is none, nor the zeros that every archive ends with."""
        try:
            return super().fromtarfile(file)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError("it is cut off, or damaged in the middle") from error


class NpzImages:
    """The images of an ADM batch: `arr_0`, uint8 (N, H, W, 3). UserError: anything else."""

    def __init__(self, path: Path):
        self.path = path
        with Npz(path) as file:
            if "arr_0" not in file:
                raise UserError(
                    f"{str(path)!r} holds no images: expected arr_0, found {', '.join(file.names) or 'nothing'}"
                )
            shape, dtype = file.shape("arr_0"), file.dtype("arr_0")
        if len(shape) != 4 or shape[3] != 3 or dtype != "uint8":
            raise UserError(f"{str(path)!r}: arr_0 must be uint8 (N, H, W, 3), it is {dtype} {shape}")
        if not 0 < shape[1] * shape[2] <= MAX_PIXELS:
            raise UserError(f"{str(path)!r}: images of {shape[1]} x {shape[2]}")
        self.images = range(shape[0])

    def __iter__(self) -> Iterator[tuple[str, Tensor, None]]:
        with Npz(self.path) as file:
            for index, row in enumerate(file.rows("arr_0")):
                yield f"arr_0[{index}]", torch.from_numpy(row.copy()).permute(2, 0, 1).contiguous(), None


def caption_in(data: bytes | Bad) -> str | None:
    """The text of a caption file; None where it is empty or no UTF-8, of which other words would be measured."""
    try:
        return None if isinstance(data, Bad) else data.decode("utf-8-sig").strip() or None
    except UnicodeDecodeError:
        return None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of reading an archive as a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror or one_line(error)}") from error
    except _DAMAGE as error:
        raise UserError(f"{str(path)!r} is a damaged archive ({one_line(error, 120)})") from error
