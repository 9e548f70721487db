"""What each claim says of the cells, as one-sided statements about a sum of weight times metric over cells.

Such a sum is a difference of two cells in most cases. A statement that allows 5 % more is one with a weight of -1.05.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from plans import (
    ABLATED,
    CONTENDERS,
    FEW_STEPS,
    FLOW_SCALE,
    HIGH,
    LINEAR_STEPS,
    RAW_APG,
    SAVING_SCALE,
    SAVING_STEPS,
    STACKED_MODIFIERS,
    STACKED_RULES,
    SWEEP_STEPS,
    THRESHOLDS,
    TRUNCATED,
    W_MAX,
    Done,
    Results,
    cell,
    tuned_scales,
)

from diffguide.eval.effort import interpolate
from diffguide.pipelines.errors import UserError

TOLERANCE = 0.05
"""Quality counts as kept where FID is less than this share above that of plain guidance."""
SAVED = 0.24
"""Of the evaluations, a little below the quarter that adaptive guidance is said to save (arXiv 2312.12487), for which
the threshold of `ag` is calibrated.
"""


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
        """The number of a cell. UserError: it was not sampled."""
        place = cell(rule, scale, steps)
        number = self._numbers.get((place.guidance, place.guidance_scale, place.steps))
        if number is None:
            raise UserError(f"{self.part} has no cell of {place}, which it is to have by now")
        return number

    def value(self, number: int, metric: str) -> float:
        """A metric of a cell."""
        return self.cells[number]["metrics"][metric]["value"]

    def less(self, says: str, metric: str, sign: int, cell: int, other: int, times: float = 1.0) -> Statement:
        """That a cell lies above (sign 1) or below (-1) `times` another."""
        return Statement(says, self.part, metric, sign, {cell: 1.0, other: -times})


def burning(done: Done) -> list[Statement]:
    """APG against plain guidance where it burns; without each part; in the forms that others have."""
    at, made = Places("burning", done["burning"]), []
    for scale, metric in product((4.0, HIGH, 15.0), ("fid", "saturation", "contrast", "clipping")):
        says = f"APG has less {metric.replace('fid', 'FID')} than CFG at scale {scale:g}"
        made.append(at.less(says, metric, -1, at("apg", scale, SWEEP_STEPS), at("cfg", scale, SWEEP_STEPS)))
    apg = at("apg", HIGH, SWEEP_STEPS)
    others = {f"without its {name}": at(rule, HIGH, SWEEP_STEPS) for name, rule in ABLATED.items()}
    others["on the raw prediction, as in diffusers,"] = at(RAW_APG, HIGH, SWEEP_STEPS)
    others[f"as in ComfyUI, which is the exact rule at {HIGH + 1:g},"] = at("apg", HIGH + 1, SWEEP_STEPS)
    for name, other in others.items():
        made.append(at.less(f"APG {name} has more FID at scale {HIGH:g}", "fid", 1, other, apg))
    return made


def saving(done: Done) -> list[Statement]:
    """Evaluations saved, quality kept, and truncation of as many evaluations."""
    at = Places("saving", done["saving"])
    full, ours, linear = (at(rule, SAVING_SCALE, SAVING_STEPS) for rule in ("cfg", "ag", "linear-ag"))
    made = [at.less(f"AG saves more than {SAVED:.0%} of the evaluations", "evaluations", -1, ours, full, 1 - SAVED)]
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
    """RAAG at few steps, against plain guidance at as many and at up to three times as many, and at RAAG's scale."""
    at = Places("flow", done["flow"])
    fewest, most = (at("cfg", FLOW_SCALE, steps) for steps in (min(FEW_STEPS), max(FEW_STEPS.values())))
    says = f"CFG has more FID in {min(FEW_STEPS)} steps than in {max(FEW_STEPS.values())}, so that there is room"
    made = [at.less(says, "fid", 1, fewest, most)]
    for few, many in FEW_STEPS.items():
        raag, same, more = at("raag", W_MAX, few), at("cfg", FLOW_SCALE, few), at("cfg", FLOW_SCALE, many)
        made.append(at.less(f"RAAG in {few} steps has less FID than CFG in {few}", "fid", -1, raag, same))
        made.append(at.less(f"RAAG in {few} steps has less FID than CFG in {many}", "fid", -1, raag, more))
        says = f"RAAG in {few} steps has less than {TOLERANCE:.0%} more FID than CFG in {many}"
        made.append(at.less(says, "fid", -1, raag, more, 1 + TOLERANCE))
        says = f"CFG at RAAG's scale {W_MAX:g} has more FID than RAAG, in {few} steps each"
        made.append(at.less(says, "fid", 1, at("cfg", W_MAX, few), raag))
    return made


def front(done: Done) -> list[Statement]:
    """Every rule against plain guidance, each at its own best scale."""
    at, best = Places("front", done["front"]), tuned_scales(done)
    plain = at("cfg", best["cfg"], SWEEP_STEPS)
    made = [
        at.less(
            f"`{rule}` at its best scale {best[rule]:g} has less FID than CFG at its best, {best['cfg']:g}",
            "fid",
            -1,
            at(rule, best[rule], SWEEP_STEPS),
            plain,
        )
        for rule in CONTENDERS
    ]
    linear = at("linear-ag", best["cfg"], LINEAR_STEPS)
    says = f"`linear-ag` in {LINEAR_STEPS} steps has less FID than CFG in {SWEEP_STEPS}, which is one evaluation less"
    return [*made, at.less(says, "fid", -1, linear, plain)]


def stacking(done: Done) -> list[Statement]:
    """Both together against the better of the two."""
    at, made = Places("sweep", done["sweep"]), []
    for rule, more in product(STACKED_RULES, STACKED_MODIFIERS):
        both, *alone = (at(its, HIGH, SWEEP_STEPS) for its in (f"{rule}+{more}", rule, f"cfg+{more}"))
        better = min(alone, key=lambda number: at.value(number, "fid"))
        says = f"`{rule}` and `{more}` together have less FID than the better of the two alone"
        made.append(at.less(says, "fid", -1, both, better))
    return made
