"""Intervals of weighted sums over the cells of a finished comparison, across scales and numbers of steps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from plans import Results
from statements import Statement

from diffguide.eval.bootstrap import Bootstrap
from diffguide.eval.files import Arrays, plain
from diffguide.eval.plan import Plan
from diffguide.eval.store import Store


def with_interval(statement: Statement, results: Results, per_image: Arrays) -> dict[str, Any]:
    """The statement with the value of its sum and the bounds of its interval, None where there is none.

    results, per_image: what results.json and per_image.npz of its comparison hold.
    """
    weights = statement.weights
    value = sum(its * results["cells"][cell]["metrics"][statement.metric]["value"] for cell, its in weights.items())
    fluctuating = sum(its * per_image[f"{cell:02d}/{statement.metric}"] for cell, its in weights.items())
    return plain(asdict(statement) | asdict(Bootstrap(results["n"]).interval(value, fluctuating)))


def seconds(folder: Path, plan: Plan) -> list[float | None]:
    """Seconds per image of each cell, medians over its batches."""
    noted = Store(folder, plan).seconds()
    return [median(noted[cell]) if noted.get(cell) else None for cell in range(len(plan.cells))]
