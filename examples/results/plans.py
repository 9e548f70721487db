"""The comparisons behind each claim of the results page: which cells, on which model, with which metrics.

A cell is a rule at a scale and a number of steps. Plain guidance is the first rule of every comparison and is sampled
at every setting, so that each cell has its own to be compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from diffguide.eval.comparison import make_plan
from diffguide.eval.plan import Cell, Plan
from diffguide.pipelines.spelling import tidy_guidance

Results = Mapping[str, Any]
"""As in results.json of a comparison."""
Done = Mapping[str, Results]
"""The results of the parts of a claim so far, by their names."""

BURNING = ("fid", "precision", "recall", "clip_score", "clipping", "saturation", "contrast")
QUALITY = ("fid", "clip_score", "saturation")

APG_SCALES = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0)
ABLATED = {
    "projection": "apg:eta=1",
    "norm cap": "apg:norm_per_element=0",
    "momentum": "apg:momentum=0",
}
"""What APG is without one of its three parts."""
ABLATION_SCALES = (8.0, 15.0)

SAVING_SCALE, SAVING_STEPS = 4.0, 20
THRESHOLDS = ["ag", *(f"ag:threshold={gamma},space=denoised" for gamma in (0.95, 0.97, 0.98, 0.995))]
"""`ag` has the threshold that is calibrated for the model."""
TRUNCATED = {k: f"cfg+interval:stop={k / SAVING_STEPS:g}" for k in (2, 5, 8, 10, 12, 15, 18)}
"""Plain guidance in the first k steps of 20, the conditional prediction after."""

FEW_STEPS = {5: 10, 8: 20, 10: 30, 15: 50}
"""Steps of RAAG, and those of plain guidance that they are to stand in for."""
W_MAX = 10.0
"""RAAG's scale (arXiv 2508.03442v4, App. A.3)."""
FLOW_SCALE = 3.0
CLASSIC_STEPS = (10, 25)

CONTENDERS = ("cfg+interval:start=0.2,stop=0.8", "apg", "raag", "ag", "linear-ag", "cfg-zero", "tcfg", "fdg", "beta")
TUNED_SCALES = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
TUNED_STEPS = 20
FRONT_STEPS = (8, 12, 20)

STACKED_SCALE, STACKED_STEPS = 8.0, 25
STACKED_RULES = ("apg", "ag", "tcfg")
STACKED_MODIFIERS = ("interval:start=0.2,stop=0.8", "rescale:phi=0.7", "energy")


@dataclass(frozen=True)
class Part:
    """One comparison of a claim. cells: of it, given the results of the parts before and the number of images.

    half: which half of the seeds, 0 or 1. keep: what becomes of images (SSIM needs them).
    """

    name: str
    model: str
    metrics: tuple[str, ...]
    cells: Callable[[Done], Sequence[Cell]]
    half: int = 0
    keep: str = "none"

    def plan(self, done: Done, num_images: int, **options: Any) -> Plan:
        """The plan of this part. options: as `make_plan`. UserError as `make_plan`."""
        plan = make_plan(
            ["cfg"],
            model=self.model,
            metrics=self.metrics,
            num_images=num_images,
            seed_start=self.half * num_images,
            keep=self.keep,
            **options,
        )
        return replace(plan, cells=with_baseline(self.cells(done)))


def cell(rule: str, scale: float, steps: int) -> Cell:
    """A cell with the model's own scheduler; the rule is spelled as plans have it."""
    return Cell(tidy_guidance(rule), scale, steps)


def with_baseline(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Plain guidance at each setting of the cells, and the cells; each once."""
    return tuple(dict.fromkeys([*(replace(place, guidance="cfg") for place in cells), *cells]))


def burning(done: Done) -> list[Cell]:
    """APG along the scales; without its parts; one unit above, which is how ComfyUI's node scales it."""
    sweep = [cell("apg", scale, 25) for scale in APG_SCALES]
    ablation = [cell(rule, scale, 25) for rule, scale in product(ABLATED.values(), ABLATION_SCALES)]
    return [*sweep, *ablation, *(cell("apg", scale + 1, 25) for scale in ABLATION_SCALES)]


def saving(done: Done) -> list[Cell]:
    """AG along its threshold, LinearAG, and plain guidance that stops after k steps."""
    return [cell(rule, SAVING_SCALE, SAVING_STEPS) for rule in (*THRESHOLDS, "linear-ag", *TRUNCATED.values())]


def few_steps(done: Done) -> list[Cell]:
    """RAAG and plain guidance at few steps, at both rules' scales, and plain guidance at many steps."""
    few = [cell("raag", scale, steps) for scale, steps in product((FLOW_SCALE, W_MAX), FEW_STEPS)]
    return [*few, *(cell("cfg", FLOW_SCALE, steps) for steps in FEW_STEPS.values())]


def few_steps_classic(done: Done) -> list[Cell]:
    """The same on a diffusion model."""
    return [cell("raag", scale, steps) for scale, steps in product((SAVING_SCALE, W_MAX), CLASSIC_STEPS)]


def tuning(done: Done) -> list[Cell]:
    """Every rule at every scale."""
    return [cell(rule, scale, TUNED_STEPS) for rule, scale in product(CONTENDERS, TUNED_SCALES)]


def front(done: Done) -> list[Cell]:
    """Every rule at the scale that was best on the other half of the seeds, with several numbers of steps."""
    best = best_scales(done["tuning"])
    several = [(rule, steps) for rule, steps in product(best, FRONT_STEPS) if rule != "linear-ag"]
    return [cell(rule, best[rule], steps) for rule, steps in [*several, ("linear-ag", TUNED_STEPS)]]


def best_scales(results: Results, metric: str = "fid") -> dict[str, float]:
    """The scale at which each rule of a comparison has its lowest value."""
    best: dict[str, Any] = {}
    for place in results["cells"]:
        known = best.setdefault(place["guidance"], place)
        best[place["guidance"]] = min(known, place, key=lambda its: its["metrics"][metric]["value"])
    return {rule: place["guidance_scale"] for rule, place in best.items()}


def stacking(done: Done) -> list[Cell]:
    """Every rule and plain guidance, alone and with each modifier."""
    rules = [*STACKED_RULES, *(f"{rule}+{more}" for rule, more in product(("cfg", *STACKED_RULES), STACKED_MODIFIERS))]
    return [cell(rule, STACKED_SCALE, STACKED_STEPS) for rule in rules]
