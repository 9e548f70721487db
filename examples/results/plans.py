"""The comparisons behind each claim of the results page: which cells, on which model, with which metrics.

A cell is a rule at a scale and a number of steps. Plain guidance is the first rule of every comparison. It is sampled
at every setting, so that each cell has its own to be compared with, but where each rule has the scale that suits it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from diffguide.eval.comparison import make_plan
from diffguide.eval.plan import Cell, Plan
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.spelling import tidy_guidance

Results = Mapping[str, Any]
"""As in results.json of a comparison."""
Done = Mapping[str, Results]
"""The results of the parts of a claim so far, by their names."""

BURNING = ("fid", "kid", "precision", "recall", "clip_score", "clipping", "saturation", "contrast")
QUALITY = ("fid", "kid", "clip_score", "saturation")
OTHER_HALF = 1 << 20
"""The first seed of the half on which rules are judged by what was chosen on the other."""

SWEEP_STEPS = 12
APG_SCALES = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0)
HIGH = 8.0
"""The scale at which plain guidance burns here, of ablations and of what is stacked."""
ABLATED = {
    "projection": "apg:eta=1",
    "norm cap": "apg:norm_per_element=0",
    "momentum": "apg:momentum=0",
}
"""What APG is without one of its three parts."""
RAW_APG = "apg:space=prediction"
"""The same on the raw prediction, as diffusers has it."""

SAVING_SCALE, SAVING_STEPS = 4.0, 20
THRESHOLDS = ["ag", *(f"ag:threshold={gamma},space=denoised" for gamma in (0.95, 0.97, 0.995))]
"""`ag` has the threshold that is calibrated for the model."""
TRUNCATED = {k: f"cfg+interval:stop={k / SAVING_STEPS:g}" for k in (5, 8, 10, 12, 15)}
"""Plain guidance in the first k steps of 20, the conditional prediction after."""

FEW_STEPS = {5: 10, 8: 20, 10: 30, 15: 50}
"""Steps of RAAG, and those of plain guidance that they are to stand in for."""
W_MAX = 10.0
"""RAAG's scale (arXiv 2508.03442v4, App. A.3)."""
FLOW_SCALE = 3.0

CONTENDERS = (
    "cfg+interval:start=0.2,stop=0.8",
    "apg",
    "raag",
    "ag",
    "cfg-zero",
    "cfg-pp",
    "tcfg",
    "fdg",
    "beta:gamma=0",
)
"""beta-CFG with the difference at its own length: with gamma=1 its scale means something else for each latent size."""
TUNED_SCALES = (2.0, 4.0, 6.0, 8.0)
FRONT_STEPS = (8, 12)
LINEAR_STEPS = 20
"""Of LinearAG, whose coefficients are of one number of steps."""

STACKED_RULES = ("apg", "ag", "tcfg")
STACKED_MODIFIERS = ("interval:start=0.2,stop=0.8", "rescale:phi=0.7", "energy")


@dataclass(frozen=True)
class Part:
    """One comparison of a claim. cells: of it, given the results of the parts before and the number of images.

    seed_start: of its images. keep: what becomes of images (SSIM needs them). paired: whether plain guidance is sampled
    at every setting of the others.
    """

    name: str
    model: str
    metrics: tuple[str, ...]
    cells: Callable[[Done], Sequence[Cell]]
    seed_start: int = 0
    keep: str = "none"
    paired: bool = True

    def plan(self, done: Done, num_images: int, **options: Any) -> Plan:
        """The plan of this part. options: as `make_plan`. UserError as `make_plan`."""
        plan = make_plan(
            ["cfg"],
            model=self.model,
            metrics=self.metrics,
            num_images=num_images,
            seed_start=self.seed_start,
            keep=self.keep,
            **options,
        )
        cells = tuple(self.cells(done))
        return replace(plan, cells=with_baseline(cells) if self.paired else cells)


def cell(rule: str, scale: float, steps: int) -> Cell:
    """A cell with the model's own scheduler; the rule is spelled as plans have it."""
    return Cell(tidy_guidance(rule), scale, steps)


def with_baseline(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Plain guidance at each setting of the cells, and the cells; each once."""
    return tuple(dict.fromkeys([*(replace(place, guidance="cfg") for place in cells), *cells]))


def burning(done: Done) -> list[Cell]:
    """APG along the scale, without its parts and in other forms."""
    along = [cell("apg", scale, SWEEP_STEPS) for scale in APG_SCALES]
    forms = [cell(rule, HIGH, SWEEP_STEPS) for rule in (*ABLATED.values(), RAW_APG)]
    off_by_one = cell("apg", HIGH + 1, SWEEP_STEPS)  # which is how ComfyUI's node scales it
    return [*along, *forms, off_by_one]


def sweep(done: Done) -> list[Cell]:
    """All rules along the scale, and rules with modifiers."""
    tuned = [cell(rule, scale, SWEEP_STEPS) for rule, scale in product(CONTENDERS, TUNED_SCALES)]
    modified = [f"{rule}+{more}" for rule, more in product(("cfg", *STACKED_RULES), STACKED_MODIFIERS)]
    return [*tuned, *(cell(rule, HIGH, SWEEP_STEPS) for rule in modified)]


def saving(done: Done) -> list[Cell]:
    """AG along its threshold, LinearAG, and plain guidance that stops after k steps."""
    return [cell(rule, SAVING_SCALE, SAVING_STEPS) for rule in (*THRESHOLDS, "linear-ag", *TRUNCATED.values())]


def few_steps(done: Done) -> list[Cell]:
    """RAAG at few steps, and plain guidance at few and at many."""
    few = [cell("raag", W_MAX, steps) for steps in FEW_STEPS]
    return [*few, *(cell("cfg", FLOW_SCALE, steps) for pair in FEW_STEPS.items() for steps in pair)]


def front(done: Done) -> list[Cell]:
    """Every rule at the scale that was best on the other half of the seeds, with several numbers of steps."""
    best = tuned_scales(done)
    several = [cell(rule, best[rule], steps) for rule, steps in product(("cfg", *CONTENDERS), FRONT_STEPS)]
    return [*several, *(cell(rule, best["cfg"], LINEAR_STEPS) for rule in ("cfg", "linear-ag"))]


def tuned_scales(done: Done) -> dict[str, float]:
    """The best scale of each rule in the sweep, among those that all of them have."""
    rules = {tidy_guidance(rule): rule for rule in ("cfg", *CONTENDERS)}
    cells = [its for its in done["sweep"]["cells"] if its["guidance_scale"] in TUNED_SCALES]
    best = best_scales([its for its in cells if its["guidance"] in rules])
    missing = rules.keys() - best.keys()
    if missing:
        raise UserError(f"the sweep has no cells of {min(missing)}, whose best scale is needed: run it again")
    return {rules[name]: scale for name, scale in best.items()}


def best_scales(cells: Sequence[Mapping[str, Any]], metric: str = "fid") -> dict[str, float]:
    """The scale at which each rule has its lowest value, from its cells in a record of results."""
    best: dict[str, Any] = {}
    for place in cells:
        known = best.setdefault(place["guidance"], place)
        best[place["guidance"]] = min(known, place, key=lambda its: its["metrics"][metric]["value"])
    return {rule: place["guidance_scale"] for rule, place in best.items()}
