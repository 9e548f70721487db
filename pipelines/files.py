"""Files that are whole or not there, judged before the work that they are to hold, and written by one process."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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
        if not folder.is_dir():
            raise UserError(f"cannot write {what} {name!r}: there is no folder {str(folder)!r} to write to")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"cannot write {what} {name!r}: the folder {str(folder)!r} may not be written to")
    except OSError as error:
        raise UserError(f"cannot write {what} {name[:80]!r}: {error.strerror}") from error


LOCK = ".diffguide.lock"
"""In a folder that a process holds."""


@contextmanager
def held(lock: Path, busy: str) -> Iterator[None]:
    """Hold the file `lock`, which is there meanwhile, for this process; the system lets go of it however that ends.

    UserError: another process holds it, which is told as `busy`, or it cannot be written. Where files have no locks, as
    on Windows and some network disks, nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return

    def opened() -> IO[str]:
        while True:
            file = open(lock, "a")  # noqa: SIM115
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                    return file
            except BlockingIOError as error:
                file.close()
                raise UserError(busy) from error
            except FileNotFoundError:
                pass
            except OSError:
                return file
            file.close()  # the one who held it has removed it since it was opened

    try:
        file = opened()
    except OSError as error:
        raise UserError(f"cannot write {str(lock)!r}: {error.strerror}") from error
    with file:
        try:
            yield
        finally:
            if not os.fstat(file.fileno()).st_size:  # else it is not ours
                lock.unlink(missing_ok=True)


@contextmanager
def plain_errors(path: Path, when_full: str = "") -> Iterator[None]:
    """An OSError as a UserError in one line. when_full: what it says besides where the disk is full."""
    try:
        yield
    except OSError as error:
        hint = when_full if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or one_line(error)}{hint}") from error


@contextmanager
def whole(path: Path, when_full: str = "") -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end. After an error `path` is as it was.

    UserError if it cannot be written. when_full: see `plain_errors`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with plain_errors(path, when_full):
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
