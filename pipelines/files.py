"""Files that are whole or not there, and judged before the work that they are to hold."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError, one_line


def check_file(path: Path, what: str, flag: str, overwrite: bool) -> None:
    """Whether `path` can be written. what, flag: what it is to hold, and the option that names it, for messages.

    UserError: a folder in its place or none around it, or a file that exists already and is not to be overwritten.
    """
    name, folder = str(path), path.parent
    try:
        if path.is_dir():
            raise UserError(f"{what} {name!r} is a folder")
        if path.exists() and not overwrite:
            raise UserError(f"{name!r} exists already: give --overwrite or another {flag}")
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"cannot write {what} {name!r}: there is no folder {str(folder)!r} to write to")
    except OSError as error:
        raise UserError(f"cannot write {what} {name[:80]!r}: {error.strerror}") from error


@contextmanager
def whole(path: Path, when_full: str = "") -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end. After an error `path` is as it was.

    UserError if it cannot be written. when_full: what its message says besides where the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        hint = when_full if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or one_line(error)}{hint}") from error
