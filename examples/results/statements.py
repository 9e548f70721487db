"""What each claim says of the cells, as one-sided statements about a sum of weight times metric over cells.

Such a sum is a difference of two cells in most cases. A statement that allows 5 % more is one with a weight of -1.05.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from plans import (
    ABLATED,
    ABLATION_SCALES,
    CLASSIC_STEPS,
    CONTENDERS,
    FEW_STEPS,
    FLOW_SCALE,
    SAVING_SCALE,
    SAVING_STEPS,
    STACKED_MODIFIERS,
    STACKED_RULES,
    STACKED_SCALE,
    STACKED_STEPS,
    THRESHOLDS,
    TRUNCATED,
    TUNED_STEPS,
    W_MAX,
    Done,
    Results,
    best_scales,
    cell,
)

from diffguide.eval.effort import interpolate

TOLERANCE = 0.05
"""Quality counts as kept where FID is less than this share above that of plain guidance."""
SAVED = 0.25
"""The share of evaluations that adaptive guidance is said to save (arXiv 2312.12487)."""


@dataclass(frozen=True)
class Statement:
    """That the sum over cells (by number) of weight times metric lies on one side of 0.

    part: whose cells. sign: 1 where the sum is said to be above 0, -1 where below. says: in words.
    """

    says: str
    part: str
    metric: str
    sign: int
    weights: Mapping[int, float]


class Places:
    """The numbers of the cells of a part, by what they are."""

    def __init__(self, part: str, results: Results):
        self.part, self.cells = part, results["cells"]
        self._numbers = {
            (its["guidance"], its["guidance_scale"], its["steps"]): number for number, its in enumerate(self.cells)
        }

    def __call__(self, rule: str, scale: float, steps: int) -> int:
        """The number of a cell."""
        place = cell(rule, scale, steps)
        return self._numbers[place.guidance, place.guidance_scale, place.steps]

    def value(self, number: int, metric: str) -> float:
        """A metric of a cell."""
        return self.cells[number]["metrics"][metric]["value"]

    def less(self, says: str, metric: str, sign: int, cell: int, other: int, times: float = 1.0) -> Statement:
        """That a cell lies above (sign 1) or below (-1) `times` another."""
        return Statement(says, self.part, metric, sign, {cell: 1.0, other: -times})


def burning(done: Done) -> list[Statement]:
    """APG against plain guidance where it burns; without each part; at ComfyUI's scale."""
    at, made = Places("sweep", done["sweep"]), []
    for scale, metric in product((4.0, *ABLATION_SCALES), ("fid", "saturation", "contrast", "clipping")):
        says = f"APG has less {metric.replace('fid', 'FID')} than CFG at scale {scale:g}"
        made.append(at.less(says, metric, -1, at("apg", scale, 25), at("cfg", scale, 25)))
    for (name, rule), scale in product(ABLATED.items(), ABLATION_SCALES):
        says = f"APG without its {name} has more FID at scale {scale:g}"
        made.append(at.less(says, "fid", 1, at(rule, scale, 25), at("apg", scale, 25)))
    for scale in ABLATION_SCALES:
        says = f"APG scaled as in ComfyUI, which is the exact rule at {scale + 1:g}, has more FID than it at {scale:g}"
        made.append(at.less(says, "fid", 1, at("apg", scale + 1, 25), at("apg", scale, 25)))
    return made


def saving(done: Done) -> list[Statement]:
    """Evaluations saved, quality kept, and truncation of as many evaluations."""
    at = Places("saving", done["saving"])
    full, ours, linear = (at(rule, SAVING_SCALE, SAVING_STEPS) for rule in ("cfg", "ag", "linear-ag"))
    made = [at.less(f"AG saves {SAVED:.0%} of the evaluations", "evaluations", -1, ours, full, 1 - SAVED)]
    for name, number in {"AG": ours, "LinearAG": linear}.items():
        says = f"{name} has less than {TOLERANCE:.0%} more FID than CFG in all steps"
        made.append(at.less(says, "fid", -1, number, full, 1 + TOLERANCE))
    stops = [at(rule, SAVING_SCALE, SAVING_STEPS) for rule in TRUNCATED.values()]
    points = [(at.value(number, "evaluations"), number) for number in (*stops, full)]
    for rule, (metric, sign) in product((*THRESHOLDS, "linear-ag"), {"fid": -1, "ssim": 1}.items()):
        number = at(rule, SAVING_SCALE, SAVING_STEPS)
        matched = dict(interpolate(points, at.value(number, "evaluations")))
        if matched:
            says = f"`{rule}` has {'more SSIM' if sign > 0 else 'less FID'} than truncation at equal evaluations"
            weights = {number: 1.0} | {other: -weight for other, weight in matched.items()}
            made.append(Statement(says, "saving", metric, sign, weights))
    return made


def few_steps(done: Done) -> list[Statement]:
    """RAAG at few steps, against plain guidance at as many and at up to three times as many; on a diffusion model."""
    flow, classic, made = Places("flow", done["flow"]), Places("diffusion", done["diffusion"]), []
    for few, many in FEW_STEPS.items():
        for steps in (few, many):
            says = f"flow: RAAG in {few} steps has less FID than CFG in {steps}"
            made.append(flow.less(says, "fid", -1, flow("raag", W_MAX, few), flow("cfg", FLOW_SCALE, steps)))
    for steps in CLASSIC_STEPS:
        says = f"diffusion: RAAG has more FID than CFG in {steps} steps"
        cells = classic("raag", W_MAX, steps), classic("cfg", SAVING_SCALE, steps)
        made.append(classic.less(says, "fid", 1, *cells))
    return made


def front(done: Done) -> list[Statement]:
    """Every rule against plain guidance, each at its own best scale."""
    at, best = Places("front", done["front"]), best_scales(done["tuning"])
    plain = at("cfg", best["cfg"], TUNED_STEPS)
    return [
        at.less(
            f"`{rule}` at its best scale {best[rule]:g} has less FID than CFG at its best, {best['cfg']:g}",
            "fid",
            -1,
            at(rule, best[rule], TUNED_STEPS),
            plain,
        )
        for rule in (cell(rule, 1.0, 1).guidance for rule in CONTENDERS)
    ]


def stacking(done: Done) -> list[Statement]:
    """Both together against the better of the two."""
    at, made = Places("stacking", done["stacking"]), []
    for rule, more in product(STACKED_RULES, STACKED_MODIFIERS):
        both, *alone = (at(its, STACKED_SCALE, STACKED_STEPS) for its in (f"{rule}+{more}", rule, f"cfg+{more}"))
        better = min(alone, key=lambda number: at.value(number, "fid"))
        says = f"`{rule}` and `{more}` together have less FID than the better of the two alone"
        made.append(at.less(says, "fid", -1, both, better))
    return made
