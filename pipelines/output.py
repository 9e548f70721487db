"""Where pictures go: decided and checked before anything is sampled, so that nothing is lost or overwritten."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import UserError
from .files import LOCK, held

SHEET = "contact-sheet.png"
"""The contact sheet in the folder of its pictures."""

_OTHER_FORMATS = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


@dataclass(frozen=True)
class Output:
    """The file of each picture, in order, and of the contact sheet, None where there is but one picture."""

    pictures: list[Path]
    sheet: Path | None
    overwrite: bool = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folders, created where they are missing, with the pictures held for this process.

        A single picture is held by itself, others with all of their folder. UserError: that is not possible, another
        process holds them, or one has written files since that are not to be overwritten.
        """
        self.make_folders()
        first = self.pictures[0]
        lock = first.with_name(f".{first.name}.lock") if self.sheet is None else first.with_name(LOCK)
        what = first if self.sheet is None else first.parent
        with held(lock, f"another run is at work on {str(what)!r}: wait for it, or give another --output"):
            self.check_free()
            yield

    def make_folders(self) -> None:
        """Create what folders are missing. UserError if that is not possible."""
        for folder in {path.parent for path in [*self.pictures, self.sheet] if path}:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"cannot create the folder {str(folder)!r}: {error.strerror}") from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise UserError(f"cannot write to the folder {str(folder)!r}")

    def check_free(self) -> None:
        """UserError: a folder in the place of a file, or a file that exists and is not to be overwritten."""
        paths = [path for path in [*self.pictures, self.sheet] if path]
        folders = [path for path in paths if path.is_dir()]
        existing = [path for path in paths if path.exists()]
        if folders:
            raise UserError(f"cannot write {str(folders[0])!r}: it is a folder")
        if existing and not self.overwrite:
            more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
            raise UserError(f"{str(existing[0])!r}{more} exists already: give --overwrite or another --output")


def plan_output(jobs: Sequence[tuple[str, int]], output: str | None, overwrite: bool) -> Output:
    """The files for pictures of `jobs`, (prompt, seed) each.

    One picture: `output` itself if it ends in .png, else in the folder `output`. Several: the contact sheet is
    `output`, if it ends in .png, and the pictures are in the folder of that name without .png; else all are in the
    folder `output`. Without `output` everything is named after the first prompt, in the current folder.

    UserError: a file that exists already and is not to be overwritten, a folder in the place of a file or the reverse,
    a format other than PNG.
    """
    try:
        result = replace(_place(jobs, output), overwrite=overwrite)
        result.check_free()
    except OSError as error:
        raise UserError(f"cannot write {str(output)[:80]!r}: {error.strerror}") from error
    return result


def slugify(prompt: str) -> str:
    """`"Red apple!"` -> `"red-apple"`, at most 40 characters."""
    return re.sub(r"\W+", "-", prompt.lower())[:40].strip("-_") or "picture"


def _place(jobs: Sequence[tuple[str, int]], output: str | None) -> Output:
    if output == "":
        raise UserError("the output has an empty name")
    names = [f"{slug}-{seed}.png" for slug, (_, seed) in zip(_slugs([prompt for prompt, _ in jobs]), jobs)]
    own = names[0] if len(jobs) == 1 else f"{slugify(jobs[0][0])}.png"
    path = Path(own) if output is None else Path(output).expanduser()
    if path.suffix.lower() in _OTHER_FORMATS:
        raise UserError(
            f"pictures are written as PNG, not {path.suffix}: name the output {path.with_suffix('.png').name!r}"
        )
    is_file = path.suffix.lower() == ".png"
    if is_file and path.is_dir():
        raise UserError(f"the output {str(path)!r} is a folder")
    folder = path.with_suffix("") if is_file else path
    if folder.exists() and not folder.is_dir() and (len(jobs) > 1 or not is_file):
        raise UserError(f"the output folder {str(folder)!r} is a file")
    if len(jobs) == 1:
        return Output([path if is_file else folder / names[0]], None)
    return Output([folder / name for name in names], path if is_file else folder / SHEET)


def _slugs(prompts: Sequence[str]) -> list[str]:
    """A slug for each prompt; different prompts that would share one are numbered."""
    slugs: dict[str, str] = {}
    taken: set[str] = set()
    for prompt in prompts:
        if prompt in slugs:
            continue
        slug, number = slugify(prompt), 1
        while slug in taken:
            number += 1
            slug = f"{slugify(prompt)}-{number}"
        slugs[prompt] = slug
        taken.add(slug)
    return [slugs[prompt] for prompt in prompts]
