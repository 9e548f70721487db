"""The traces of pictures in one file, for `diffguide generate --trace`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError
from .rules import NATIVE

if TYPE_CHECKING:
    from .sampling import Picture

VERSION = 1


def plan_traces(name: str | None, guidance: str, overwrite: bool) -> Path | None:
    """The file for the traces, judged before anything is sampled; None where none is wanted.

    UserError: guidance without a trace, a name that does not end in .json, a file that exists already and is not to be
    overwritten, a folder in its place or none around it.
    """
    if name is None:
        return None
    path = Path(name)
    if guidance in NATIVE:
        raise UserError(
            f"the guidance {guidance!r} is the pipeline's own, which has no trace: give --guidance cfg, or leave "
            "--trace out"
        )
    if path.suffix.lower() != ".json":
        raise UserError(f"a trace is JSON: name it {path.with_suffix('.json').name!r}, not {name!r}")
    if path.is_dir():
        raise UserError(f"the trace {name!r} is a folder")
    if path.exists() and not overwrite:
        raise UserError(f"{name!r} exists already: give --overwrite or another --trace")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write the trace {name!r}: there is no folder {str(path.parent)!r} to write to")
    return path


def write_traces(path: Path, pictures: Sequence[Picture], files: Sequence[Path]) -> None:
    """A JSON object: "version" (1), and "pictures", a list of path, prompt, seed and trace, as `Trace.to_dict` has it.

    Each picture has the numbers of its own place in its batch. UserError if the file cannot be written.
    """
    entries = [
        {
            "path": str(file),
            "prompt": picture.settings.prompt,
            "seed": picture.settings.seed,
            "trace": picture.trace.of_sample(picture.place).to_dict(),
        }
        for picture, file in zip(pictures, files)
        if picture.trace is not None
    ]
    text = json.dumps({"version": VERSION, "pictures": entries}, ensure_ascii=False, allow_nan=False)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_text(text + "\n", encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the trace {str(path)!r}: {error.strerror}") from error
