"""What is measured on the cells of a finished run, and intervals of any combination of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bootstrap import Bootstrap, Interval
from .columns import COLUMNS, COMPUTED, FRECHET
from .effort import Match, baselines
from .files import Arrays
from .leave_one_out import FrechetReference, leave_one_out, pseudo_values
from .likeness import ssim_to_baseline
from .measures import distances, networks_of
from .metric_functions import Reference
from .metrics import METRICS
from .plan import Plan
from .sampler import TRACED
from .store import Store


@dataclass
class Measured:
    """One cell: the value of each metric, and per image (n,) what its interval is resampled from, if it has one."""

    values: dict[str, float] = field(default_factory=dict)
    per_image: dict[str, np.ndarray] = field(default_factory=dict)
    trace: dict[str, list[float]] = field(default_factory=dict)


def measured_table(store: Store, references: Mapping[str, Reference], device: str = "cpu") -> Table:
    """All metrics of all cells of a finished run.

    references: what images are measured against, by the names of the networks. device: where the linear algebra of the
    Frechet distance runs, in float64. UserError: the run is not finished.
    """
    plan = store.plan
    networks, names = networks_of(plan), [*(name for name in COLUMNS if name in plan.metrics), *COMPUTED]
    used = {name: networks.of(name) for name in distances(plan.metrics)}
    asked = [Distance(name, network, references[network], device) for name, network in used.items()]
    measured = []
    for cell, baseline in enumerate(baselines(plan.cells)):
        arrays = store.read_cell(cell)
        if "ssim" in names:
            arrays["ssim"] = ssim_to_baseline(store, cell, baseline)
        measured.append(measure_cell(arrays, names, asked))
    return Table(plan, measured)


class Distance:
    """A metric between the features of a cell and those of the reference."""

    def __init__(self, name: str, network: str, reference: Reference, device: str):
        self.name, self.features, self.reference = name, f"features_{network}", reference
        statistics = reference.statistics
        self.frechet = None
        if name in FRECHET:
            self.frechet = FrechetReference(statistics.mu.to(device), statistics.sigma.to(device))

    def measure(self, features: Tensor) -> tuple[float, np.ndarray | None]:
        """Its value, and per image (n,) what its interval is resampled from, where it has one."""
        if self.frechet is None:
            return METRICS[self.name].compute(features, self.reference).value, None
        value, left_out = leave_one_out(features.to(self.frechet.mu.device), self.frechet)
        return value, pseudo_values(value, left_out).cpu().numpy()


def measure_cell(arrays: Arrays, names: list[str], asked: list[Distance]) -> Measured:
    """The metrics of one cell from what its batches hold, one row per image."""
    cell = Measured()
    for name in names:
        if name in arrays:
            per_image = arrays[name].astype(np.float64)
            cell.values[name], cell.per_image[name] = float(per_image.mean()), per_image
    for distance in asked:
        value, values = distance.measure(torch.from_numpy(arrays[distance.features]))
        cell.values[distance.name] = value
        if values is not None:
            cell.per_image[distance.name] = values
    if "trace_timestep" in arrays:
        steps = {name: arrays[f"trace_{name}"] for name in (*TRACED, "evaluations", "timestep")}
        cell.trace = {name: _mean(values.astype(np.float64)) for name, values in steps.items()}
    return cell


class Table:
    """Values of cells, and of combinations of cells, with intervals."""

    def __init__(self, plan: Plan, measured: list[Measured]):
        self.plan, self.measured, self.bootstrap = plan, measured, Bootstrap(plan.num_images)

    @property
    def names(self) -> list[str]:
        """The metrics that all cells have."""
        return [name for name in COLUMNS if all(name in cell.values for cell in self.measured)]

    def per_image(self) -> Arrays:
        """What intervals are resampled from, (n,) each, under the number of the cell and the metric, "02/fid"."""
        cells = enumerate(self.measured)
        return {f"{i:02d}/{name}": values for i, cell in cells for name, values in cell.per_image.items()}

    def interval(self, metric: str, weights: Mapping[int, float]) -> Interval:
        """The sum over cells of weight times metric."""
        value = sum(weight * self.measured[i].values[metric] for i, weight in weights.items())
        per_image = [weight * self.measured[i].per_image.get(metric, np.nan) for i, weight in weights.items()]
        return self.bootstrap.interval(value, np.broadcast_to(sum(per_image), self.plan.num_images))

    def cell(self, i: int, names: list[str]) -> dict[str, Any]:
        """One cell for the record."""
        metrics = {name: asdict(self.interval(name, {i: 1.0})) for name in names}
        record = asdict(self.plan.cells[i]) | {"n": self.plan.num_images, "folder": self.plan.folder(i)}
        return record | {"metrics": metrics, "trace": self.measured[i].trace}

    def differences(self, names: list[str]) -> list[dict[str, Any]]:
        """Every cell less the cell of the first rule at the same setting, where that has one, metric by metric."""
        records = []
        for i, base in enumerate(baselines(self.plan.cells)):
            if base is None or base == i:
                continue
            where = {"cell": i, "baseline": base, **asdict(self.plan.cells[i])}
            for name in names:
                interval = self.interval(name, {i: 1.0, base: -1.0})
                records.append({**where, "metric": name, **asdict(interval)})
        return records

    def match(self, match: Match, names: list[str]) -> dict[str, Any]:
        """A match for the record: the rule's values there, and what they are more than the baseline's."""
        weights, record = dict(match.cells), asdict(match) | {"cells": [list(pair) for pair in match.cells]}
        if not weights:
            return record
        values = {name: asdict(self.interval(name, weights)) for name in names}
        less = {**weights, match.baseline: weights.get(match.baseline, 0.0) - 1.0}
        return record | {"metrics": values, "minus_baseline": {n: asdict(self.interval(n, less)) for n in names}}


def _mean(values: np.ndarray) -> list[float]:
    """The mean of each column over what is not NaN."""
    there = np.isfinite(values)
    counts = there.sum(0)
    sums = np.where(there, values, 0).sum(0)
    return [float(total / count) if count else float("nan") for total, count in zip(sums, counts)]
