"""The pictures that comparisons kept, side by side: the same prompts and noise under several rules and scales."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from plans import HIGH, SWEEP_STEPS, cell

from diffguide.eval.growth import plan_of
from diffguide.eval.plan import SHEET_ROWS, Cell
from diffguide.eval.store import Store

SHOWN: tuple[tuple[str, str, str, float], ...] = (
    ("CFG, 4", "burning", "cfg", 4.0),
    ("CFG, 8", "burning", "cfg", HIGH),
    ("CFG, 15", "burning", "cfg", 15.0),
    ("APG, 8", "burning", "apg", HIGH),
    ("APG, 15", "burning", "apg", 15.0),
    ("CFG + rescale, 8", "sweep", "cfg+rescale:phi=0.7", HIGH),
    ("interval, 8", "sweep", "cfg+interval:start=0.2,stop=0.8", HIGH),
    ("AG, 8", "sweep", "ag", HIGH),
    ("RAAG, 8", "sweep", "raag", HIGH),
    ("CFG-Zero*, 8", "sweep", "cfg-zero", HIGH),
    ("CFG++, 8", "sweep", "cfg-pp", HIGH),
    ("TCFG, 8", "sweep", "tcfg", HIGH),
    ("beta-CFG, 8", "sweep", "beta:gamma=0", HIGH),
)
"""The columns: a title, the comparison that has it, a rule, a scale. These comparisons draw from the same seeds."""


def columns() -> list[tuple[str, str, Cell]]:
    """Title, comparison and cell of each."""
    return [(title, part, cell(rule, scale, SWEEP_STEPS)) for title, part, rule, scale in SHOWN]


def draw_gallery(runs: Path, path: Path) -> bool:
    """Write the pictures that the comparisons in `runs` kept to `path`; False where one is missing."""
    plans = {part: plan for _, part, _ in columns() if (plan := plan_of(runs / part))}
    if not all(part in plans for _, part, _ in columns()):
        return False
    stores = {part: Store(runs / part, plan) for part, plan in plans.items()}
    plan = min(plans.values(), key=lambda its: its.num_images)
    rows = range(min(SHEET_ROWS, plan.num_images))
    files = [
        [stores[part].image_path(plans[part].cells.index(place), image) for image in rows]
        for _, part, place in columns()
    ]
    if not all(file.is_file() for column in files for file in column):
        return False
    figure = Figure(figsize=(1.05 * len(SHOWN), 1.0 * len(rows) + 0.4), layout="constrained", dpi=100)
    grid = figure.subplots(len(rows), len(SHOWN), squeeze=False)
    for (title, *_), pictures, column in zip(SHOWN, files, grid.T):
        column[0].set_title(title, fontsize=7)
        for file, axes in zip(pictures, column):
            with Image.open(file) as picture:
                axes.imshow(np.asarray(picture), interpolation="lanczos")
            axes.set(xticks=[], yticks=[])
            axes.set_frame_on(False)
    for image, axes in zip(rows, grid[:, 0]):
        axes.set_ylabel(plan.prompt(image)[:24], fontsize=6)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(256).save(path, optimize=True)
    return True
