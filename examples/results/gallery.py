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

PART = "sweep"
SHOWN: tuple[tuple[str, str, float], ...] = (
    ("CFG, 4", "cfg", 4.0),
    ("CFG, 8", "cfg", 8.0),
    ("CFG, 15", "cfg", 15.0),
    ("APG, 8", "apg", 8.0),
    ("APG, 15", "apg", 15.0),
    ("CFG + rescale, 8", "cfg+rescale:phi=0.7", HIGH),
    ("interval, 8", "cfg+interval:start=0.2,stop=0.8", HIGH),
    ("AG, 8", "ag", HIGH),
    ("RAAG, 8", "raag", HIGH),
    ("CFG-Zero*, 8", "cfg-zero", HIGH),
    ("TCFG, 8", "tcfg", HIGH),
    ("beta-CFG, 8", "beta:gamma=0", HIGH),
)
"""The columns: a title, a rule, a scale."""


def cells() -> list[Cell]:
    """Those of the columns."""
    return [cell(rule, scale, SWEEP_STEPS) for _, rule, scale in SHOWN]


def draw_gallery(runs: Path, path: Path) -> bool:
    """Write the pictures of the sweep in `runs` to `path`; False where there is none."""
    plan = plan_of(runs / PART)
    if plan is None:
        return False
    store, rows = Store(runs / PART, plan), range(min(SHEET_ROWS, plan.num_images))
    figure = Figure(figsize=(1.05 * len(SHOWN), 1.0 * len(rows) + 0.4), layout="constrained", dpi=100)
    grid = figure.subplots(len(rows), len(SHOWN), squeeze=False)
    for (title, *_), place, column in zip(SHOWN, cells(), grid.T):
        column[0].set_title(title, fontsize=7)
        for image, axes in zip(rows, column):
            with Image.open(store.image_path(plan.cells.index(place), image)) as picture:
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
