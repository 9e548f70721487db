"""Intervals of weighted sums over the cells of a finished comparison, across scales and numbers of steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from statements import Statement

from diffguide.eval.bootstrap import Bootstrap
from diffguide.eval.effort import baselines
from diffguide.eval.files import plain
from diffguide.eval.likeness import ssim_to_baseline
from diffguide.eval.measures import distances, load_networks, measure_reference, networks_of
from diffguide.eval.plan import Plan
from diffguide.eval.results import Distance, Table, measure_cell
from diffguide.eval.store import Store


def intervals(folder: Path, plan: Plan, statements: Iterable[Statement]) -> list[dict[str, Any]]:
    """Each statement with the value of its sum and the bounds of its interval, None where there is none.

    folder: of a finished comparison of `plan`. Only the cells and metrics that statements name are measured.
    """
    wanted = [statement for statement in statements if statement.weights]
    store, base = Store(folder, plan), baselines(plan.cells)
    extractors, _ = load_networks(plan, "cpu")
    references, networks = measure_reference(plan, extractors, "cpu"), networks_of(plan)
    made = {
        name: Distance(name, networks.of(name), references[networks.of(name)], "cpu")
        for name in distances(plan.metrics)
    }
    measured: list[Any] = [None] * len(plan.cells)
    for cell in {cell for statement in wanted for cell in statement.weights}:
        names = list({statement.metric for statement in wanted if cell in statement.weights})
        arrays = store.read_cell(cell)
        if "ssim" in names:
            arrays["ssim"] = ssim_to_baseline(store, cell, base[cell])
        measured[cell] = measure_cell(arrays, names, [made[name] for name in names if name in made])
    table = Table(plan, measured, Bootstrap(plan.num_images))
    return [plain(asdict(one) | asdict(table.interval(one.metric, one.weights))) for one in wanted]


def seconds(folder: Path, plan: Plan) -> list[float | None]:
    """Seconds per image of each cell, medians over its batches."""
    noted = Store(folder, plan).seconds()
    return [median(noted[cell]) if noted.get(cell) else None for cell in range(len(plan.cells))]
