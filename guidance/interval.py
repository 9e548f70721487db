"""The rule in a part of sampling only."""

from __future__ import annotations

import warnings
from typing import Any

from .base import Guidance
from .checks import finite, share
from .modifiers import Modifier
from .step import Step

_LIMITS = {"start": 0.0, "stop": 1.0, "low": None, "high": None}


class Interval(Modifier):
    """The rule inside an interval of sampling, the conditional prediction alone outside, where it costs one evaluation.

    Kynkaanniemi et al., arXiv 2404.07724: guidance in the middle noise levels only. Evaluation i of n counts as inside
    when start <= i / n < stop.

    Args:
        rule: the rule.
        start: share of the evaluations before which the rule is off, in [0, 1). Default 0.
        stop: share of the evaluations from which it is off again, in (start, 1]. Default 1.
        low: the noise level (sigma as in the trace) down to which, exclusive, the rule is on; the paper's interval is
            (low, high] in sigma: 0.28 to 5.42 for SDXL. Default None: no limit.
        high: the noise level up to which, inclusive, it is on. Default None: no limit.

    A limit on the noise level reads it from the device where the scheduler keeps it there. An interval in which no
    evaluation of a sampling lies is warned of at its end.

    Raises:
        ValueError: also for an empty interval, or a step whose scheduler states no noise level.
    """

    order = -20

    def __init__(
        self,
        rule: Guidance,
        start: float = 0.0,
        stop: float = 1.0,
        low: float | None = None,
        high: float | None = None,
    ):
        super().__init__(rule)
        self.start, self.stop = share(start, stop)
        low, high = (None if level is None else finite("a noise level", level) for level in (low, high))
        if low is not None and high is not None and not low < high:
            raise ValueError(f"an interval of noise levels needs low < high, not low={low!r}, high={high!r}")
        self.low, self.high = low, high

    def active(self, step: Step) -> bool:
        """Whether this step lies inside."""
        inside, known = self._holds(step), step.state.setdefault("interval", {"entered": False, "from": step.sigma})
        known["entered"] |= inside
        if step.index == step.total - 1 and not known["entered"]:
            known["entered"] = True  # said once
            warnings.warn(self._missed(step, known["from"]), stacklevel=2)
        return inside

    def _missed(self, step: Step, highest: Any) -> str:
        """What a sampling without an evaluation inside is told, at its last step."""
        given = {name: getattr(self, name) for name, usual in _LIMITS.items() if getattr(self, name) != usual}
        limits, levels = ", ".join(f"{name}={value:g}" for name, value in given.items()), ""
        if "low" in given or "high" in given:
            first, last = map(float, (highest, step.sigma))
            levels = f", whose noise levels go from {first:.3g} to {last:.3g}"
        return f"the interval {limits} holds none of the {step.total} evaluations{levels}: all were conditional"

    def _holds(self, step: Step) -> bool:
        inside = step.within(self.start, self.stop)
        if self.low is None and self.high is None:
            return inside
        if step.sigma is None:  # said at the first step, wherever the interval begins
            raise ValueError("this scheduler states no noise level: give the interval as start and stop")
        if not inside:
            return False
        sigma = float(step.sigma)
        beyond = 1 + 1e-6  # a level in float32 may lie above the number that it stands for
        return (self.low is None or sigma > self.low * beyond) and (self.high is None or sigma <= self.high * beyond)
