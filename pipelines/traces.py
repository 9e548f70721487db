"""The traces of pictures in one file, for `diffguide generate --trace`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .files import check_file, whole
from .rule_names import NATIVE

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
    if not name:
        raise UserError("--trace has an empty name")
    path = Path(name).expanduser()
    if guidance in NATIVE:
        raise UserError(
            f"the guidance {guidance!r} is the pipeline's own, which has no trace: give --guidance cfg, or leave "
            "--trace out"
        )
    if path.is_dir():
        raise UserError(f"the trace {name!r} is a folder: name a file in it, such as {str(path / 'trace.json')!r}")
    if path.suffix.lower() != ".json":
        raise UserError(f"a trace is JSON: name it {path.with_suffix('.json').name!r}, not {name!r}")
    check_file(path, "the trace", "--trace", overwrite)
    return path


@contextmanager
def kept_traces(path: Path | None) -> Iterator[Callable[[Picture, Path], None]]:
    """A function that takes in each finished picture and its file; their traces are written to `path` at the end.

    A JSON object: "version" (1), and "pictures", a list of path, prompt, seed and trace, as `Trace.to_dict` has it.
    Each picture has the numbers of its own place in its batch. After an error, or an interruption, the file has the
    pictures that are finished, and is left alone where none is. Nothing is kept for a `path` of None.

    UserError if the file cannot be written, except after an error, which goes on as it was.
    """
    entries: list[dict[str, Any]] = []

    def keep(picture: Picture, file: Path) -> None:
        if path is not None and picture.trace is not None:
            settings, trace = picture.settings, picture.trace.of_sample(picture.place).to_dict()
            entries.append({"path": str(file), "prompt": settings.prompt, "seed": settings.seed, "trace": trace})

    try:
        yield keep
    except BaseException:
        if path is not None and entries:
            with suppress(UserError):
                _write(path, entries)
        raise
    if path is not None:
        _write(path, entries)


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    text = json.dumps({"version": VERSION, "pictures": entries}, ensure_ascii=False, allow_nan=False)
    with whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
