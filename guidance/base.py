"""The base class of all rules.

The contract, once, with shapes:

    cond, uncond    (B, ...)   the model's two predictions, whatever it predicts
    latents         (B, ...)   the model input z in the training parametrisation, same shape
    step            Step       where in sampling we are, and how prediction, x0 and noise follow from one another
    guided          (B, ...)   what the pipeline goes on with, in place of both predictions

`guidance_scale` w is always that of diffusers: 1 is conditional only, uncond + w (cond - uncond).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .basis import Basis, Combination, precise
from .step import Step
from .trace import Measurement


@dataclass(frozen=True)
class Vectors:
    """What `Guidance.combine` combines, in the space of the rule: predictions, model input, and the rule's memory."""

    cond: Combination
    difference: Combination
    latents: Combination | None
    memory: dict[str, Combination]

    @property
    def uncond(self) -> Combination:
        """The unconditional prediction, cond - difference."""
        return self.cond - self.difference


class Guidance:
    """A rule by which conditional and unconditional predictions become one.

    A rule that is linear in its tensors overrides `combine`; any other overrides `guide`. An instance holds options
    only, so that one rule can serve several pipelines: what it remembers is in `step.state`.

    Args:
        guidance_scale: w, any finite number.

    Raises:
        ValueError: the scale is not a finite number.
    """

    space: ClassVar[str] = "prediction"
    """Where `combine` works: "prediction" (as the model outputs it), "denoised" (x0) or "noise" (epsilon)."""

    def __init__(self, guidance_scale: float = 7.5):
        self.guidance_scale = finite("guidance_scale", guidance_scale)

    def needs_uncond(self, step: Step) -> bool:
        """Whether this step needs the unconditional prediction; where it does not, that evaluation is saved."""
        return True

    def memory(self, step: Step) -> dict[str, Tensor]:
        """Tensors of earlier steps, (B, ...) each, that `combine` also wants."""
        return {}

    def combine(self, vectors: Vectors, step: Step) -> Combination:
        """The guided prediction as a combination of the vectors, in the space of the rule."""
        raise TypeError(f"{type(self).__name__} must override combine() or guide()")

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """The guided prediction (B, ...) and what the trace keeps of the step."""
        a, b = step.to_space(self.space)
        memory = self.memory(step)
        predictions = {"cond": cond, "difference": precise(cond) - precise(uncond)}
        if self.space == "prediction":
            basis = Basis(**predictions, **memory)
            remembered = {name: basis[name] for name in memory}
            vectors = Vectors(basis["cond"], basis["difference"], None, remembered)
            guided = self.combine(vectors, step)
        else:
            basis = Basis(latents=latents, **predictions, **memory)
            z, remembered = basis["latents"], {name: basis[name] for name in memory}
            vectors = Vectors(a * z + b * basis["cond"], b * basis["difference"], z, remembered)
            guided = (self.combine(vectors, step) - a * z) / b
        return guided.tensor().to(cond.dtype), Measurement.of(guided)

    def guide_cond(self, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """The guided prediction (B, ...) at a step whose unconditional evaluation was left out."""
        return cond

    def after_step(self, latents: Tensor, step: Step) -> Tensor:
        """Act on the latents (B, ...) after the scheduler's step; returns the latents to go on with."""
        return latents

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def finite(name: str, value: float) -> float:
    """`value` as a float; ValueError naming the option if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return float(value)
