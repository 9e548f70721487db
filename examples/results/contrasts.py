"""Intervals of weighted sums over the cells of a finished comparison, across scales and numbers of steps.

A Frechet distance of n images is too large by a bias that cancels in a difference of cells. It does not where weights
have another sum than 0, as where a cell may be worse by a share of another: there a share of the bias would be allowed
too. Such sums are of distances without it, to first order in 1 / n: the means of the jackknife's pseudo-values.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from plans import Results
from statements import Statement

from diffguide.eval.bootstrap import Bootstrap
from diffguide.eval.columns import FRECHET
from diffguide.eval.files import Arrays, plain
from diffguide.eval.plan import Plan
from diffguide.eval.store import Store


def with_interval(statement: Statement, results: Results, per_image: Arrays) -> dict[str, Any]:
    """The statement with the value of its sum and the bounds of its interval, None where there is none.

    results, per_image: what results.json and per_image.npz of its comparison hold. `unbiased` says whether the sum is
    of distances without their bias.
    """
    weights = statement.weights
    fluctuating = sum(its * per_image[f"{cell:02d}/{statement.metric}"] for cell, its in weights.items())
    unbiased = statement.metric in FRECHET and abs(sum(weights.values())) > 1e-6
    if unbiased:
        value = float(fluctuating.mean())
    else:
        value = sum(its * results["cells"][cell]["metrics"][statement.metric]["value"] for cell, its in weights.items())
    interval = Bootstrap(results["n"]).interval(value, fluctuating)
    return plain(asdict(statement) | asdict(interval) | {"unbiased": unbiased})


def seconds(folder: Path, plan: Plan) -> list[float | None]:
    """Seconds per image of each cell, medians over its batches."""
    noted = Store(folder, plan).seconds()
    return [median(noted[cell]) if noted.get(cell) else None for cell in range(len(plan.cells))]
