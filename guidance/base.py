"""The base class of all rules.

The contract, once, with shapes:

    cond, uncond    (B, ...)   the model's two predictions, whatever it predicts
    latents         (B, ...)   the model input z in the training parametrisation, same shape
    step            Step       where in sampling we are, and how prediction, x0 and noise follow from one another
    guided          (B, ...)   what the pipeline goes on with, in place of both predictions

`guidance_scale` w is always that of diffusers: 1 is conditional only, uncond + w (cond - uncond). Four rules are
exceptions: frequency-decoupled guidance has more scales, that of beta-CFG counts from uncond, that of CFG++ is its
lambda in other units, and that of NAG is one of attention.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from . import saving
from .basis import Basis, Combination, Scalar
from .checks import finite
from .measurement import Measurement
from .step import Step
from .tensors import per_sample, precise

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Vectors:
    """What `Guidance.combine` combines, in the space of the rule: the predictions, their difference cond - uncond, and
    the model input. `basis.add` takes in further tensors, such as what a rule remembers.
    """

    cond: Combination
    uncond: Combination
    difference: Combination
    latents: Combination

    @property
    def basis(self) -> Basis:
        """The tensors that they are made of."""
        return self.cond.basis


class Guidance:
    """A rule by which conditional and unconditional predictions become one.

    A rule overrides `combine`, on coefficients, which is the easiest to write for what is linear in its tensors; or
    `guide`, on the tensors themselves, which costs least. An instance holds options only, so that one rule can serve
    several pipelines: what it remembers is in `step.state`.

    Args:
        guidance_scale: w, any finite number.

    Raises:
        ValueError: the scale is not a finite number.
    """

    space: str = "prediction"
    """Where `combine` works: "prediction" (as the model outputs it), "denoised" (x0) or "noise" (epsilon)."""

    interruptible: ClassVar[bool] = True
    """Whether steps may be left out between those in which the rule acts."""

    takes_negative: ClassVar[bool] = True
    """Whether it means what it says with any negative prompt, not with the empty one alone, for which it was fitted."""

    acts_alone: bool = False
    """Whether the rule does its work without an unconditional prediction, so that it may run where there is none."""

    acts_inside: bool = False
    """Whether the rule acts on attention inside the denoiser, by `attend`, and makes nothing of predictions."""

    presets: ClassVar[dict[str, dict[str, float]]] = {}
    """Published settings, by the name of a model or of their source."""

    def __init__(self, guidance_scale: float = 7.5):
        self.guidance_scale = finite("guidance_scale", guidance_scale)

    @classmethod
    def from_preset(cls, name: str, **changes: float) -> Self:
        """The rule with the published settings that `presets` has under `name`, and `changes`.

        ValueError for another name.
        """
        if name not in cls.presets:
            known = ", ".join(cls.presets) or "none"
            raise ValueError(f"{cls.__name__} has no preset named {name!r}; there are {known}")
        return cls(**(cls.presets[name] | changes))

    def needs_uncond(self, step: Step) -> bool:
        """Whether this step needs the unconditional prediction; where it does not, that evaluation is saved."""
        return True

    def combine(self, vectors: Vectors, step: Step) -> Combination:
        """The guided prediction as a combination of the vectors, in the space of the rule."""
        raise TypeError(f"{type(self).__name__} must override combine() or guide()")

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """The guided prediction (B, ...) and what the trace keeps of the step."""
        basis = Basis(cond=cond, uncond=uncond, latents=latents)
        difference = basis.add("difference", basis.tensor("cond") - basis.tensor("uncond"))
        a, b = self.mapping(step)
        own = basis["cond"]
        if isinstance(a, float) and a == 0:
            vectors = Vectors(b * own, b * basis["uncond"], b * difference, basis["latents"])
        else:
            there = b * basis.add("cond in space", (own + (a / b) * basis["latents"]).tensor())
            vectors = Vectors(there, there - b * difference, b * difference, basis["latents"])
        combined = self.combine(vectors, step)
        if not isinstance(combined, Combination):
            raise TypeError(
                f"{type(self).__name__}.combine() must return a combination of the vectors, not a "
                f"{type(combined).__name__}: a rule on tensors overrides guide()"
            )
        guided = own + (combined - vectors.cond) / b
        return guided.tensor().to(cond.dtype), Measurement(lambda: guided)

    def mapping(self, step: Step) -> tuple[Scalar, Scalar]:
        """(a, b) with `a z + b prediction` in the space of the rule.

        At noise level 0, where the prediction has no part in it (b = 0), that of the prediction itself.
        """
        a, b = step.to_space(self.space)
        return (0.0, 1.0) if isinstance(b, float) and b == 0 else (a, b)

    def in_space(self, cond: Tensor, latents: Tensor, step: Step, out: Tensor | None = None) -> tuple[Tensor, Scalar]:
        """(x, b) with x b the conditional prediction in the space of the rule; differences of predictions d are d b.

        For rules on tensors: in units of b an update is the same in both spaces, guided = cond + update. b: a number,
        or a tensor that multiplies one (B, ...). out: memory for x, which is used unless x is `cond` itself.
        """
        a, b = self.mapping(step)
        if isinstance(a, float) and isinstance(b, float):
            return (cond if a == 0 else torch.add(cond, precise(latents), alpha=a / b, out=out)), b
        a, b = per_sample(a, cond), per_sample(b, cond)
        if isinstance(a, float) and a == 0:
            return cond, b
        return torch.addcmul(cond, precise(latents), torch.as_tensor(a / b, device=cond.device), out=out), b

    def guide_cond(self, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """The guided prediction (B, ...) at a step whose unconditional evaluation was left out.

        A rule that estimates what was left out says so in `step.decision`, and measures it in `step.measured`.
        """
        return cond

    def attend(self, positive: Tensor, negative: Tensor, step: Step) -> Tensor:
        """What an attention to texts goes on with, for a rule that acts inside the denoiser.

        positive, negative: (B, tokens, channels), what the latents attend to with the prompt and with the negative
        prompt, before the output projection.
        """
        return positive

    def after_step(self, latents: Tensor, step: Step) -> Tensor:
        """Act on the latents (B, ...) after the scheduler's step; returns the latents to go on with."""
        return latents

    @property
    def acts_after_step(self) -> bool:
        """Whether `after_step` does anything."""
        return type(self).after_step is not Guidance.after_step

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the rule and its options to `folder`, as JSON. ValueError: one of them is a function."""
        saving.save(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The rule that `save_pretrained` wrote; one of yours once its class is defined.

        ValueError: it is not there, is damaged, or is another rule.
        """
        rule = saving.load(folder, cls)
        if not isinstance(rule, cls):
            raise ValueError(f"{str(folder)!r} holds a {type(rule).__name__}, not a {cls.__name__}")
        return rule

    def with_scale(self, guidance_scale: float) -> Guidance:
        """The same rule at another scale. ValueError: it is not a finite number."""
        other = copy.copy(self)
        other.guidance_scale = finite("guidance_scale", guidance_scale)
        return other

    def __repr__(self) -> str:
        options = [f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_")]
        return f"{type(self).__name__}({', '.join(options)})"
