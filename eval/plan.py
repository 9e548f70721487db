"""The plan of a comparison: a grid of cells, each sampled from the same seeds and prompts. Imports no torch.

Image k of every cell has seed `seed_start + k` and prompt `k % len(prompts)`, so that cells differ in the rule alone. A
cell is sampled in batches of fixed bounds: batch b holds images `b * batch_size` to `(b + 1) * batch_size - 1`. The
larger matrix products of another batch size round differently, so its bounds are a part of the plan.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from itertools import product
from typing import Any

from diffguide.pipelines.arguments import MAX_SEED, check_text
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.rule_names import NATIVE
from diffguide.pipelines.spelling import format_value, tidy_guidance

KEEP = ("png", "webp", "none")
NETWORK_OPTIONS = ("extractor", "resize", "inception", "clip", "dinov2", "reward")
"""Options that say which networks metrics use."""
SHEET_ROWS = 6
"""Images of each cell that a report shows; they are kept even where the others are not."""


@dataclass(frozen=True)
class Cell:
    """One place of the grid. scheduler: None for the model's own."""

    guidance: str
    guidance_scale: float
    steps: int
    scheduler: str | None = None

    @property
    def native(self) -> bool:
        """Whether the pipeline's own guidance is at work, of which there is no trace."""
        return self.guidance in NATIVE

    @property
    def setting(self) -> tuple[float, int, str | None]:
        """All but the rule: what two cells share that are compared directly."""
        return self.guidance_scale, self.steps, self.scheduler

    def __str__(self) -> str:
        scheduler = f", {self.scheduler}" if self.scheduler else ""
        return f"{self.guidance} at scale {self.guidance_scale:g}, {self.steps} steps{scheduler}"


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a comparison's files hold.

    prompts: those in use, at most `num_images`, each one line. prompt_file: where they came from, which decides
    nothing; None: a list, or the captions of the reference set. keep: "png", "webp" (lossless) or "none" (then features
    and the first `SHEET_ROWS` images of a cell). reference: a folder, archive or statistics file, "emoji", or None.
    convert, skip_bad: how its images are read, see `images.Images`. metrics: names. extractor, resize, inception, clip,
    dinov2, reward: the networks of the metrics, as in `networks.Networks`. files: what the files hold that it refers
    to, as `contents.plan_contents` finds it, None where that was not noted.
    """

    model: str
    cells: tuple[Cell, ...]
    num_images: int
    prompts: tuple[str, ...]
    prompt_file: str | None = field(default=None, compare=False)
    seed_start: int = 0
    batch_size: int = 8
    keep: str = "png"
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    reference: str | None = None
    convert: bool = False
    skip_bad: bool = False
    metrics: tuple[str, ...] = ("saturation", "contrast", "clipping")
    extractor: str | None = None
    resize: str | None = None
    inception: str | None = None
    clip: str | None = None
    dinov2: str | None = None
    reward: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    files: dict[str, str] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.cells or not self.prompts or self.num_images < 1 or self.batch_size < 1:
            raise UserError("a comparison needs at least one cell, one prompt, one image, and batches of at least one")
        twice = [cell for i, cell in enumerate(self.cells) if cell in self.cells[:i]]
        if twice:
            raise UserError(f"the grid has {str(twice[0])!r} twice")
        if self.keep not in KEEP:
            raise UserError(f"images are kept as {', '.join(KEEP)}, not {self.keep!r}")
        if self.keep == "none" and "ssim" in self.metrics:
            raise UserError("ssim compares images that are kept: as png or webp")
        if not 0 <= self.seed_start <= MAX_SEED - self.num_images:
            raise UserError(f"the seeds from {self.seed_start} on do not stay between 0 and 2**63 - 1")
        for number, prompt in enumerate(map(check_text, self.prompts), 1):
            if prompt.splitlines() != [prompt.strip()] or "\0" in prompt:
                raise UserError(f"a prompt is one line of text, without space around it: number {number} is {prompt!r}")

    @property
    def guidances(self) -> list[str]:
        """The rules, as given; the first is the one that the others are compared with."""
        return list(dict.fromkeys(cell.guidance for cell in self.cells))

    @property
    def weights(self) -> str:
        """The name among `files` of the weights of an embedded model."""
        return f"{self.model}/*.safetensors"

    @property
    def batches(self) -> int:
        """The number of batches of each cell."""
        return -(-self.num_images // self.batch_size)

    def images(self, batch: int) -> range:
        """The numbers of the images of a batch."""
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, self.num_images))

    def seed(self, image: int) -> int:
        """The seed of an image, whatever its cell."""
        return self.seed_start + image

    def prompt(self, image: int) -> str:
        """The prompt of an image, whatever its cell."""
        return self.prompts[image % len(self.prompts)]

    def keeps(self, image: int) -> bool:
        """Whether the file of an image is kept."""
        return self.keep != "none" or image < SHEET_ROWS

    def folder(self, cell: int) -> str:
        """The folder of a cell, `02-apg-eta=0.5-w8-s10`."""
        place = self.cells[cell]
        parts = [f"{cell:02d}", place.guidance, f"w{place.guidance_scale:g}", f"s{place.steps}", place.scheduler or ""]
        return re.sub(r"[^\w.=+]+", "-", "-".join(filter(None, parts)))[:100]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Plan:
        """The plan that `to_dict` wrote. UserError if it is not one."""
        try:
            cells = tuple(Cell(**cell) for cell in record["cells"])
            lists = {name: tuple(record[name]) for name in ("prompts", "metrics")}
            if not isinstance(record.get("files", {}), (dict, type(None))):
                raise TypeError("files")
            return cls(**{**record, **lists, "cells": cells})
        except (KeyError, TypeError) as error:
            raise UserError(f"this is not the plan of a comparison ({error})") from error

    def difference(self, other: Plan) -> str | None:
        """What differs from `other`, in words with both sides; None if the plans are equal."""
        for entry in (entry for entry in fields(self) if entry.compare):
            mine, theirs = getattr(self, entry.name), getattr(other, entry.name)
            if mine != theirs:
                return f"{entry.name.replace('_', ' ')}: {_brief(theirs, mine)} there, {_brief(mine, theirs)} here"
        return None

    def changed_file(self, other: Plan) -> str | None:
        """The name of the first file that held something else for `other`, which this plan goes on with; None for none.

        "" where `other` did not note what its files held. The files of further cells are new to it.
        """
        if not self.files:
            return None
        if other.files is None or self.weights in self.files.keys() - other.files.keys():
            return ""
        known = [name for name in self.files if self.cells == other.cells or name in other.files]
        return next((name for name in known if other.files.get(name) != self.files[name]), None)

    def _full_grid(self) -> set[Cell]:
        """The cells of every rule at all scales, steps and schedulers that any has."""
        names = ("guidance", "guidance_scale", "steps", "scheduler")
        return {Cell(*values) for values in product(*({getattr(cell, name) for cell in self.cells} for name in names))}

    def command(self) -> str:
        """The command line that this plan came from, but for where its output went; "" where it makes other cells."""
        schedulers = {cell.scheduler for cell in self.cells}
        if set(self.cells) != self._full_grid() or (None in schedulers and len(schedulers) > 1):
            return ""
        values: dict[str, Iterable[Any]] = {
            "guidance": self.guidances,
            "guidance-scale": dict.fromkeys(format_value(cell.guidance_scale) for cell in self.cells),
            "steps": dict.fromkeys(cell.steps for cell in self.cells),
            "scheduler": dict.fromkeys(cell.scheduler for cell in self.cells if cell.scheduler),
            "metrics": self.metrics,
        }
        names = ("model", "num_images", "seed_start", "batch_size", "keep", "negative_prompt", "height", "width")
        for name in (*names, "prompt_file", "reference", *NETWORK_OPTIONS, "device", "dtype"):
            value = getattr(self, name)
            values[name.replace("_", "-")] = [] if value is None else [value]
        words = [_flag(name, list(map(str, given))) for name, given in values.items() if given]
        switches = ["--convert"] * self.convert + ["--skip-bad"] * self.skip_bad
        return " ".join(["diffguide compare", *words, *switches])


def grid(
    guidances: Sequence[str], scales: Sequence[float], steps: Sequence[int], schedulers: Sequence[str | None] = (None,)
) -> tuple[Cell, ...]:
    """Every rule at every scale, number of steps and scheduler, the cells of one rule together.

    UserError for an unknown rule, or a rule that is given twice.
    """
    names = [tidy_guidance(guidance) for guidance in guidances]
    return tuple(
        Cell(guidance, float(scale), count, scheduler)
        for guidance, scheduler, count, scale in product(names, schedulers, steps, scales)
    )


def shuffled(prompts: Sequence[str]) -> list[str]:
    """The prompts in an order of no meaning, the same everywhere, so that the first n are a fair sample of all."""
    return sorted(prompts, key=lambda prompt: sha256(prompt.encode()).digest())


def _brief(value: Any, other: Any) -> str:
    if not isinstance(value, tuple):
        return repr(value)
    same = f"{len(value)} in another order" if len(value) == len(other) else f"only {len(value)} of them"
    own = [str(entry) for entry in value if entry not in other] or [same]
    return ", ".join(own[:3]) + (f" and {len(own) - 3} more" if len(own) > 3 else "")


def _flag(name: str, values: list[str]) -> str:
    if len(values) == 1 and values[0].startswith("-"):  # it must not be read as another flag
        return _quoted(f"--{name}={values[0]}")
    return " ".join([f"--{name}", *map(_quoted, values)])


def _quoted(text: str) -> str:
    if re.fullmatch(r"[\w./:=,+-]+", text):
        return text
    return shlex.quote(text) if re.search(r'["\\$`!]', text) else f'"{text}"'
