"""A comparison that is given more images or cells: what was sampled before stays, and counts. Imports no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .files import read_json
from .plan import Plan


def plan_of(folder: Path) -> Plan | None:
    """The plan of the comparison in `folder`, None where there is none. UserError for a damaged one."""
    path = folder / "plan.json"
    return Plan.from_dict(read_json(path)) if path.is_file() else None


def continuing(plan: Plan, there: Plan | None) -> Plan:
    """`plan` with its cells in the order in which `there` has them, new ones last; itself where that cannot be.

    The number of a cell is in the name of its folder, so that it must not change when rules or scales are added.
    """
    if there is None or there.cells[0].guidance != plan.cells[0].guidance or not set(there.cells) <= set(plan.cells):
        return plan
    return replace(plan, cells=tuple(dict.fromkeys([*there.cells, *plan.cells])))


def obstacle(plan: Plan, there: Plan) -> str | None:
    """What keeps `plan` from going on with what `there` sampled, in words with both sides; None if nothing does.

    It may have more images of each cell, as long as image k has the same prompt, and more cells after those of `there`.
    """
    known: dict[str, Any] = {}
    if plan.num_images >= there.num_images:
        known |= {"num_images": there.num_images}
        if all(plan.prompt(image) == there.prompt(image) for image in range(there.num_images)):
            known |= {"prompts": there.prompts}
    if plan.cells[: len(there.cells)] == there.cells:
        known |= {"cells": there.cells}
    return replace(plan, **known).difference(there)
