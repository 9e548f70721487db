"""The claims of the results page: what the papers say, in whose numbers, and what is sampled to see whether it holds.

Beside each figure of a paper stands how it is known: "paper" (read in it) or "notes" (read in notes on it by others).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import plans
import statements
from plans import BURNING, CONTENDERS, OTHER_HALF, QUALITY, Done, Part, cell
from statements import Statement


@dataclass(frozen=True)
class Chart:
    """A figure of cells: a metric along "guidance_scale", "steps" or "evaluations"; or what a trace has, per "step".

    rules: those that are drawn; () for all. best: each at its tuned scale alone; others may be there as a
    baseline.
    """

    part: str
    metric: str
    along: str
    rules: tuple[str, ...] = ()
    best: bool = False


@dataclass(frozen=True)
class Claim:
    """One section of the page. published: the paper's own figures, with their source. left_out: what is not measured.

    parts: names of the comparisons that it needs; its statements are about the last. matched: the one whose rules are
    also compared at equal effective scale, if any.
    """

    title: str
    published: tuple[str, ...]
    parts: tuple[str, ...]
    statements: Callable[[Done], list[Statement]]
    charts: tuple[Chart, ...]
    left_out: str = ""
    matched: str = ""


SD, FLOW = "emoji-sd", "emoji-flow"

PARTS = {
    part.name: part
    for part in (
        Part("burning", SD, BURNING, plans.burning),
        Part("sweep", SD, BURNING, plans.sweep),
        Part("saving", SD, (*QUALITY, "ssim"), plans.saving, keep="webp"),
        Part("flow", FLOW, QUALITY, plans.few_steps),
        Part("front", SD, QUALITY, plans.front, seed_start=OTHER_HALF, paired=False),
    )
}
"""The comparisons, each after those that it needs the results of."""

TUNING = "sweep"
"""The comparison in which the scale of each rule is found that suits it."""

_TUNED = ("cfg", *(cell(rule, 1.0, 1).guidance for rule in CONTENDERS))

CLAIMS: dict[str, Claim] = {
    "apg": Claim(
        "APG takes the burning out of high guidance scales",
        (
            "FID of CFG and APG: EDM2-S at scale 4, 10.42 and 6.49; SDXL at scale 15, 26.29 and 25.35 (arXiv "
            "2410.02416, Table 1; notes)",
            "FID of EDM2-S without the projection 6.63, without the norm cap 7.93, without momentum 6.85 (Table 2; "
            "notes)",
        ),
        ("burning",),
        statements.burning,
        tuple(
            Chart("burning", metric, "guidance_scale", ("cfg", "apg")) for metric in ("fid", "saturation", "clipping")
        ),
        "ComfyUI's own code: its node gives cond + w m where the paper has cond + (w - 1) m, which is the exact rule "
        "one unit higher, and was measured as such.",
    ),
    "ag": Claim(
        "AG saves a quarter of the evaluations at the same quality",
        (
            "20 steps in about 30 evaluations in place of 40; people preferred its pictures 498 to 502 times of 1,000 "
            "(arXiv 2312.12487; notes)",
            "LinearAG: 25 evaluations for 20 steps, judged by eye (the same; notes)",
        ),
        ("saving",),
        statements.saving,
        (Chart("saving", "fid", "evaluations"), Chart("saving", "ssim", "evaluations")),
        "FasterCache of diffusers, which is no rule: `examples/benchmarks/evaluations.py` has it, and wall time.",
    ),
    "raag": Claim(
        "RAAG reaches in few steps what plain guidance needs three times as many for",
        (
            "up to three times fewer steps on SD3.5 (arXiv 2508.03442v4; paper)",
            "FID to the model's own 50-step images: CFG in 10 steps 63.62, in 30 steps 24.80, RAAG (there MAMBO-G) in "
            "10 steps 32.05 (the same; paper)",
        ),
        ("flow",),
        statements.few_steps,
        (Chart("flow", "fid", "steps"), Chart("flow", "ratio", "step", ("raag",))),
        "FID to the model's own images of 50 steps: it is to the drawings here.",
    ),
    "front": Claim(
        "Every rule at its own best scale",
        (
            "of 8 rules tuned anew on SD3.5-M and FLUX.2-klein-4B hardly any is better than CFG by more than the "
            "margin (arXiv 2608.16786; notes)",
            "RAAG is clearly worse than CFG on Stable Diffusion 2, say its reviewers",
        ),
        ("sweep", "front"),
        statements.front,
        (
            Chart("front", "fid", "evaluations", (*_TUNED, "linear-ag"), best=True),
            Chart("sweep", "fid", "guidance_scale", _TUNED),
            Chart("sweep", "ratio", "step", ("raag",)),
        ),
        "LinearAG's own best scale: it has the one of plain guidance, which it stands in for. Scales below 2, where "
        "the best of some rules may lie. An epsilon model: emoji-sd, the diffusion model here, predicts v.",
        matched="sweep",
    ),
    "stacking": Claim(
        "Which rules add up",
        (
            "ImageReward of Qwen-Image in 10 steps: rescale 0.73, with RAAG 1.12; APG 0.85, with RAAG 0.96 (arXiv "
            "2508.03442v4; paper)",
        ),
        ("sweep",),
        statements.stacking,
        (),
        "two rules at once, which have no common formula; what adds up here is a rule and a modifier.",
    ),
}

LIMITS = (
    "The models are small, draw emoji on white at 64 x 64 and predict v or a velocity. Which rule wins here need not "
    "win on a large model.",
    "FID is to the drawings that the models were trained on, by a network trained on photographs. Compare its values "
    "within this page only; it falls with n.",
    "Scales do not transfer: what is high here is high for these models.",
    "At a high scale whatever goes less far along the guidance direction has less FID here, the rule's idea aside: the "
    "cells' effective scales, and the comparison at equal ones, say how much of a gain is that.",
    "Seconds are those of one machine with other work beside it: `examples/benchmarks` compares time.",
    "Every interval stands for itself. Among many statements some are decided by chance.",
)

HOLDS, FAILS, UNDECIDED = VERDICTS = ("holds", "does not hold", "undecided")


def verdict(sign: int, low: float | None, high: float | None) -> str:
    """Of a statement, from its interval: holds where all of it is on the side that is said, not where none of it is.

    sign: of the side. low, high: None, or no number, for too few images.
    """
    if low is None or high is None or not (low > 0 or high < 0):
        return UNDECIDED
    return HOLDS if (low > 0) == (sign > 0) else FAILS
