"""The files of a comparison, written so that a run can be killed at any moment and goes on where it stopped.

    plan.json, environment.json     what is sampled, and with what; a run of another plan is refused, and one of
                                    a larger plan goes on (see `growth`)
    cells/02-apg-w8-s10/
        images/00017.png            with the settings that make it again
        batches/00002.npz           what was measured on the images of a batch, and the hashes of their files
    seconds/0.jsonl                 what cannot be the same twice: the time that each batch took, one file a process
    prompts.txt                     where they were given as a list
    results.csv, results.json, report.html
    per_image.npz                   what intervals are resampled from

A batch counts as finished once its npz file is in place, which is written after its images and has their hashes. Every
file is written under a temporary name and renamed, so that a name stands for a whole file, and all but images are
flushed to the disk before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from diffguide.pipelines.errors import UserError

from .files import FULL, Arrays, plain_errors, read_arrays, write_file
from .plan import Plan

Unit = tuple[int, int]
"""The number of a cell and of one of its batches."""


class Store:
    """The folder of one run."""

    def __init__(self, folder: str | os.PathLike[str], plan: Plan):
        self.folder, self.plan = Path(folder), plan

    def image_path(self, cell: int, image: int) -> Path:
        """The file of an image."""
        suffix = "webp" if self.plan.keep == "webp" else "png"
        return self.folder / "cells" / self.plan.folder(cell) / "images" / f"{image:05d}.{suffix}"

    def batch_path(self, cell: int, batch: int) -> Path:
        """The file of what was measured on a batch."""
        return self.folder / "cells" / self.plan.folder(cell) / "batches" / f"{batch:05d}.npz"

    def make_folders(self) -> None:
        """Create what folders are missing. UserError if that is not possible."""
        with plain_errors(self.folder, FULL):
            (self.folder / "seconds").mkdir(parents=True, exist_ok=True)
            for cell in range(len(self.plan.cells)):
                for path in (self.image_path(cell, 0), self.batch_path(cell, 0)):
                    path.parent.mkdir(parents=True, exist_ok=True)

    def remove_leftovers(self) -> None:
        """Remove files that a killed run left half written. Only while no other process writes here."""
        for path in self.folder.rglob(".*.tmp"):
            path.unlink(missing_ok=True)

    def finish_batch(self, cell: int, batch: int, arrays: Arrays, seconds: float, process: int) -> None:
        """Write what was measured on a batch, after its images, and then the time that it took.

        seconds: for the whole batch.
        """
        import numpy as np

        packed = BytesIO()
        np.savez(packed, **self._with_hashes(cell, batch, arrays))  # type: ignore[arg-type]
        write_file(self.batch_path(cell, batch), packed.getvalue())
        line = {"cell": cell, "batch": batch, "images": len(self.plan.images(batch)), "seconds": seconds}
        with plain_errors(self.folder, FULL), open(self.folder / "seconds" / f"{process}.jsonl", "a") as file:
            file.write("\n" + json.dumps(line))  # the line break first: a torn line before it stays alone

    def read_batch(self, cell: int, batch: int) -> Arrays | None:
        """What was measured on a batch; None if it is not finished, or its files are not what was written."""
        arrays = read_arrays(self.batch_path(cell, batch))
        if arrays is None or any(len(array) != len(self.plan.images(batch)) for array in arrays.values()):
            return None
        hashes = arrays.pop("sha256", None)
        for row, image in enumerate(self.plan.images(batch)):
            if self.plan.keeps(image):
                path = self.image_path(cell, image)
                if hashes is None or not path.is_file() or _hash(path) != hashes[row].tobytes():
                    return None
        return arrays

    def finished(self) -> set[Unit]:
        """The batches that are finished in this folder."""
        units = [(cell, batch) for cell in range(len(self.plan.cells)) for batch in range(self.plan.batches)]
        return {unit for unit in units if self.read_batch(*unit) is not None}

    def read_cell(self, cell: int) -> Arrays:
        """What was measured on a cell, one row per image. UserError if a batch is missing."""
        import numpy as np

        batches = [self.read_batch(cell, batch) for batch in range(self.plan.batches)]
        whole = [batch for batch in batches if batch is not None]
        if len(whole) < len(batches):
            raise UserError(
                f"{self.folder} is not finished: {self.plan.cells[cell]} has {len(whole)} of {len(batches)} batches; "
                "run the same `diffguide compare` again"
            )
        return {name: np.concatenate([batch[name] for batch in whole]) for name in whole[0]}

    def files(self, unit: Unit) -> Iterator[Path]:
        """The files of a finished batch, the one that finishes it last."""
        cell, batch = unit
        yield from (self.image_path(cell, image) for image in self.plan.images(batch) if self.plan.keeps(image))
        yield self.batch_path(cell, batch)

    def seconds(self) -> dict[int, list[float]]:
        """Seconds per image of the finished batches of each cell, as far as they were noted."""
        noted: dict[Unit, float] = {}
        for path in sorted((self.folder / "seconds").glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    noted[entry["cell"], entry["batch"]] = entry["seconds"] / entry["images"]
                except (ValueError, TypeError, KeyError):
                    continue  # a line that a kill has cut short
        return {
            cell: [value for unit, value in sorted(noted.items()) if unit[0] == cell]
            for cell in range(len(self.plan.cells))
        }

    def _with_hashes(self, cell: int, batch: int, arrays: Arrays) -> Arrays:
        import numpy as np

        if not any(map(self.plan.keeps, self.plan.images(batch))):
            return arrays
        paths = [self.image_path(cell, image) if self.plan.keeps(image) else None for image in self.plan.images(batch)]
        hashes = [bytes(32) if path is None else _hash(path) for path in paths]
        return arrays | {"sha256": np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), 32)}


def _hash(path: Path) -> bytes:
    return sha256(path.read_bytes()).digest()
