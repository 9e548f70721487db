"""The scale as a function of where sampling is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from .base import Guidance
from .checks import finite
from .modifiers import Modifier
from .step import Step


class Scheduled(Modifier):
    """The rule with a scale that changes from step to step.

    Args:
        rule: the rule; its own scale is where a named schedule starts from.
        schedule: a list with the scale of each evaluation (as many as there are); a function from progress, 0 at the
            first evaluation and 1 at the last, to the scale; or a name: "linear", a straight line from the scale of the
            rule to `end`, or "cosine", half a wave between the same two, flat at both ends.
        end: where a named schedule ends. Default 1, conditional only; not so of frequency-decoupled guidance and
            beta-CFG (see there), nor of CFG++, whose scale of that is its `unit`, and which at 1 is next to
            unconditional.

    At an evaluation whose scale is 1, a rule that is the conditional prediction there makes one evaluation.

    Raises:
        ValueError: also for an unknown name, a scale that is not a finite number, or a list whose length is not that of
            the evaluations (said at the first step).
    """

    order = -10

    def __init__(
        self,
        rule: Guidance,
        schedule: Sequence[float] | Callable[[float], float] | Literal["linear", "cosine"] = "linear",
        end: float = 1.0,
    ):
        super().__init__(rule)
        if isinstance(schedule, str):
            if schedule not in _SHAPES:
                raise ValueError(
                    f"a schedule is {' or '.join(map(repr, _SHAPES))}, a list or a function, not {schedule!r}"
                )
        elif not callable(schedule):
            if not isinstance(schedule, Iterable):
                raise ValueError(f"a schedule is a name, a list or a function, not {schedule!r}")
            schedule = [finite("a scale of the schedule", scale) for scale in schedule]
            if not schedule:
                raise ValueError("a schedule has one scale at least")
        self.schedule, self.end = schedule, finite("end", end)

    def scale(self, guidance_scale: float, step: Step) -> float:
        """The scale at this step."""
        if isinstance(self.schedule, str):
            share = _SHAPES[self.schedule](step.progress)
            return guidance_scale + share * (self.end - guidance_scale)
        if callable(self.schedule):
            return finite("the scale of the schedule", self.schedule(step.progress))
        if len(self.schedule) != step.total:
            raise ValueError(f"the schedule has {len(self.schedule)} scales for {step.total} evaluations")
        return self.schedule[step.index]


_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
}
