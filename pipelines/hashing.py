"""Whether a file or a folder still holds what it held. Imports no torch."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from .errors import UserError
from .folders import files_below

WHOLE = 64 * 1024 * 1024
"""Bytes of a file up to which all of it counts; of a larger one its size and BLOCKS blocks, evenly spaced."""
BLOCKS, BLOCK = 256, 64 * 1024


def content_hash(path: Path) -> str:
    """16 hexadecimal digits of the SHA-256 of a file, or of names and contents in a folder but for hidden ones.

    Of a file larger than WHOLE only blocks count, which any other training of the same network changes. UserError: it
    cannot be read.
    """
    try:
        if not path.is_dir():
            return _digest(path)
        entries = {entry.relative_to(path): entry for entry in files_below(path) if entry.is_file()}
        shown = {name.as_posix(): entry for name, entry in entries.items() if not _hidden(name)}
        lines = [f"{name} {_digest(entry)}\n" for name, entry in sorted(shown.items())]
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    return sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


def _digest(path: Path) -> str:
    size = path.stat().st_size
    digest = sha256(f"{size}\n".encode())
    with open(path, "rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for index in range(BLOCKS):
                file.seek(index * (size - BLOCK) // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)
