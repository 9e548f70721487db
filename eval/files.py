"""Files that are whole or not there, and a folder held by one process."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffguide.pipelines.errors import UserError, one_line
from diffguide.pipelines.files import LOCK, held, plain_errors, whole

if TYPE_CHECKING:
    import numpy as np

Arrays = dict[str, "np.ndarray"]
FULL = ": what is finished is kept; make room and run the same command again"


def read_arrays(path: Path) -> Arrays | None:
    """The arrays of an npz file without pickles; None for anything that is not a whole one."""
    import numpy as np

    from .npz import DAMAGE

    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, KeyError, *DAMAGE):
        return None


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file or leave `path` as it was. UserError if the disk is full or the file cannot be written."""
    with whole(path, FULL) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, record: Any) -> None:
    """Write JSON, NaN as null, as `write_file`."""
    write_file(path, (json.dumps(plain(record), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file. UserError if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no {path.name} in {str(path.parent)!r}: is it the output of a compare?") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {str(path)!r}: {one_line(error)}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; UserError if another compare is at work in it.

    Folders that were not there before and are still empty in the end go again.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with plain_errors(folder, FULL):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with held(folder / LOCK, f"another compare is at work in {str(folder)!r}"):
            yield
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def plain(value: Any) -> Any:
    """`value` for JSON: NumPy numbers as Python's, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
