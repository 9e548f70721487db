"""How far a step may go: a bound on the divergence between its Gaussian with and without a move of x0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .divergence import DIVERGENCES, Divergence
from .step import Step
from .tensors import per_sample

TINY = 1e-30
INSIDE = 1 - 1e-5
"""Of the radius, so that no rounding leads beyond the bound."""


class TrustRegion:
    """A bound on the move of one step, of which `at` makes numbers; see `RewardGuidance` for the options.

    Raises:
        ValueError: more than one bound, or one out of range.
    """

    def __init__(self, bounds: dict[str, float | None], per_dimension: bool, floor: float):
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        if len(given) > 1:
            raise ValueError(f"a move has one bound, not {' and '.join(given)} together")
        self.name = next(iter(given), None)
        self.per_dimension, self.floor = per_dimension, floor
        # Of the scalar alone, on the CPU: at a step there is nothing left to invert.
        self.reach = None if self.name is None else DIVERGENCES[self.name].reach(given[self.name])

    def at(self, step: Step, like: Tensor) -> Region | None:
        """The region of this step for samples `like` (B, ...); None where there is neither Gaussian nor bound.

        ValueError: there is a bound, and the scheduler gives no Gaussian.
        """
        if step.kernel is None:
            if self.name is None:
                return None
            raise ValueError(f"this scheduler gives no Gaussian for its step, whose {self.name} could be bounded")
        a, s = step.kernel
        closed = self.name is not None and isinstance(s, float) and max(s, self.floor) == 0
        a, s = (x.float().flatten() if isinstance(x, Tensor) else torch.full((), x, device=like.device) for x in (a, s))
        numel = math.prod(like.shape[1:]) if self.per_dimension else 1
        return Region(
            DIVERGENCES[self.name or "kl"], self.reach, a, s.clamp(min=max(self.floor, TINY)), numel**0.5, closed
        )


@dataclass(frozen=True)
class Region:
    """That of one step, N(a x0, s^2 I), delta divided by `unit`. closed: it is known that nothing may move."""

    kind: Divergence
    reach: float | None
    a: Tensor
    s: Tensor
    unit: float
    closed: bool

    def radius_of(self, like: Tensor) -> Tensor | None:
        """The largest L2 norm of a move of x0, as it multiplies samples `like` (B, ...); None without a bound."""
        if self.reach is None:
            return None
        radius = INSIDE * self.unit * self.reach * (self.s if self.kind.by_noise else 1.0) * self.s / self.a
        return per_sample(radius, like)

    def divergence(self, norm: Tensor) -> Tensor:
        """That of a move of x0 of this L2 norm."""
        return self.kind.value(norm * self.a / self.s / self.unit, self.s)
