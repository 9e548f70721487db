"""Reading npz files that nobody vouches for: no pickle, and every size is checked before memory is taken."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffguide.pipelines.errors import UserError, one_line

DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, SyntaxError)
"""What a damaged zip or npz file makes Python and NumPy raise."""

_ANY_SIZE = 2**62


class Npz:
    """An open npz file, a context manager. UserError: there is none, or it is not one."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except OSError as error:
            raise UserError(f"cannot read {str(path)!r}: {error.strerror or one_line(error)}") from error
        except DAMAGE as error:
            raise UserError(f"{str(path)!r} is not an npz file ({one_line(error, 120)})") from error
        self._members = {
            i.filename.removesuffix(".npy"): i for i in self._zip.infolist() if i.filename.endswith(".npy")
        }
        self.names = list(self._members)

    def __enter__(self) -> Npz:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, from its header. UserError: it holds Python objects, or is damaged."""
        stream, shape, _ = self._open(name)
        stream.close()
        return shape

    def read(self, name: str, limit: int) -> np.ndarray:
        """An array of at most `limit` bytes. UserError: larger, damaged, or of Python objects."""
        stream, shape, dtype = self._open(name, limit)
        with stream:
            return np.frombuffer(self._exactly(stream, name, self._bytes(shape, dtype)), dtype).reshape(shape)

    def rows(self, name: str) -> Iterator[np.ndarray]:
        """The rows of an array one by one, whatever its size. UserError: damaged, or of Python objects."""
        stream, shape, dtype = self._open(name)
        with stream:
            for _ in range(shape[0]):
                yield np.frombuffer(self._exactly(stream, name, self._bytes(shape[1:], dtype)), dtype).reshape(
                    shape[1:]
                )

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of an array, from its header. UserError as `shape`."""
        stream, _, dtype = self._open(name)
        stream.close()
        return dtype

    def _open(self, name: str, limit: int = _ANY_SIZE) -> tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]:
        """The stream of an array behind its header, its shape and its dtype."""
        stream = None
        try:
            stream = self._zip.open(self._members[name])
            version = np.lib.format.read_magic(stream)
            read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
            shape, fortran, dtype = read_header(stream)
            self._check(name, shape, fortran, dtype, limit)
        except BaseException as error:
            if stream is not None:
                stream.close()
            if isinstance(error, (*DAMAGE, KeyError, OSError)) and not isinstance(error, UserError):
                raise self._damaged(name, error) from error
            raise
        return stream, shape, dtype

    def _check(self, name: str, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any], limit: int) -> None:
        if dtype.hasobject:
            raise UserError(f"{str(self.path)!r}: {name} holds pickled Python objects, which are never loaded")
        if fortran and len(shape) > 1:
            raise UserError(f"{str(self.path)!r}: {name} is stored by columns: save it as np.ascontiguousarray({name})")
        limit = min(limit, self._members[name].file_size)
        if self._bytes(shape, dtype) > limit:
            raise UserError(f"{str(self.path)!r}: {name} is {shape} of {dtype}, more than {limit} bytes")

    def _exactly(self, stream: IO[bytes], name: str, size: int) -> bytes:
        try:
            data = stream.read(size)
        except (*DAMAGE, OSError) as error:
            raise self._damaged(name, error) from error
        if len(data) < size:
            raise self._damaged(name, "it ends too early")
        return data

    def _damaged(self, name: str, error: BaseException | str) -> UserError:
        return UserError(f"{str(self.path)!r}: {name} is damaged ({one_line(error, 120)})")

    @staticmethod
    def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
        return dtype.itemsize * math.prod(shape)
