"""From the measurements of a finished run to its results: values, paired differences, equal effort, conclusions."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from .bootstrap import FEWEST, LEVEL, METHOD, REPLICATES, SEED
from .conclusions import conclude
from .effort import match_effective_scale, match_evaluations
from .files import read_json, write_file, write_json
from .grid import PER_IMAGE
from .metric_functions import Reference
from .prompts import run_command, write_prompts
from .store import Store
from .table import Table


def compute_results(store: Store, table: Table, references: Mapping[str, Reference]) -> dict[str, Any]:
    """The results of a finished run, as they are written to results.json.

    table: of `store`. references: what it was measured against, by the names of the networks.
    """
    plan, names, measured = store.plan, table.names, table.measured
    if all(np.isnan(cell.values["effective_scale"]) for cell in measured):
        names.remove("effective_scale")  # no rule had an unconditional prediction to push away from
    matched = {
        "matched_evaluations": match_evaluations(plan.cells, [cell.values["evaluations"] for cell in measured]),
        "matched_effective_scale": match_effective_scale(
            plan.cells, [cell.values["effective_scale"] for cell in measured]
        ),
    }
    differences = table.differences(names)
    return {
        "format": 1,
        "command": run_command(plan),
        "environment": _environment(store, references),
        "model": plan.model,
        "n": plan.num_images,
        "seeds": [plan.seed(0), plan.seed(plan.num_images - 1)],
        "prompts": len(plan.prompts),
        "metrics": names,
        "cells": [table.cell(i, names) for i in range(len(plan.cells))],
        "differences": differences,
        **{name: [table.match(match, names) for match in matches] for name, matches in matched.items()},
        "conclusions": conclude(plan.guidances, names, differences, plan.num_images),
    }


def write_results(store: Store, results: dict[str, Any], table: Table) -> None:
    """results.json, results.csv with a row per cell, per_image.npz, and the prompts where they were a list.

    per_image.npz has for each cell and metric one number per image, those of one prompt and seed at the same place, for
    statistics of one's own; for the Frechet distance its pseudo-value.
    """
    packed = io.BytesIO()
    np.savez(packed, **table.per_image())  # type: ignore[arg-type]
    write_file(store.folder / PER_IMAGE, packed.getvalue())
    write_prompts(store.folder, store.plan)
    write_json(store.folder / "results.json", results)
    text = io.StringIO()
    settings = ["guidance", "guidance_scale", "steps", "scheduler", "n"]
    kinds = ["", "_low", "_high", "_minus_baseline", "_minus_baseline_low", "_minus_baseline_high"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*settings, *(f"{name}{kind}" for name in results["metrics"] for kind in kinds)])
    by_cell = {(entry["cell"], entry["metric"]): entry for entry in results["differences"]}
    for i, cell in enumerate(results["cells"]):
        row = [cell[name] for name in settings]
        for name in results["metrics"]:
            for entry in (cell["metrics"][name], by_cell.get((i, name), {})):
                row += [_text(entry.get(key)) for key in ("value", "low", "high")]
        writer.writerow(row)
    write_file(store.folder / "results.csv", text.getvalue().encode())


def _environment(store: Store, references: Mapping[str, Reference]) -> dict[str, Any]:
    settings = {"replicates": REPLICATES, "level": LEVEL, "seed": SEED, "fewest_images": FEWEST}
    record = read_json(store.folder / "environment.json") | {"intervals": {"method": METHOD, **settings}}
    for network, reference in references.items():
        record[f"reference {network}"] = f"{store.plan.reference}: {reference.statistics.describe()}"
    return record | {f"content of {name}": digest for name, digest in (store.plan.files or {}).items()}


def _text(value: float | None) -> str:
    return "" if value is None or value != value else repr(float(value))
