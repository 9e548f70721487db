"""CFG-Zero*. Fan et al., arXiv 2503.18886: Section 4, optimized scale and zero-init; prediction space."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Guidance
from .checks import whole
from .measurement import Measurement
from .step import Step
from .tensors import inner, precise, ratio, restored, squared_norm

NOISE_ALONE = 0.95
"""Share of noise from which on a sampling counts as one that begins in noise alone."""


class ClassifierFreeZeroStarGuidance(Guidance):
    """The unconditional prediction scaled to lie nearest the conditional one; the first velocities zero.

    Per sample, over all dimensions but the first:

        s = <cond, uncond> / |uncond|^2;  guided = s uncond + w (cond - s uncond)

    A zeroed evaluation leaves the latents of a flow model where they are, and needs no unconditional prediction. Where
    cond - uncond is at right angles to uncond, s is 1 and the rule is plain guidance.

    Args:
        guidance_scale: w. Default 7.5 (diffusers'). At 1 the rule is the conditional prediction, except where it is
            zeroed.
        zero_init_steps: how many evaluations, from the first, are zeroed; the authors' code zeroes 1 for SD3.5 and 2
            for SD3 and Lumina. None (default): 1 on flow models whose sampling begins in noise alone, none on others,
            whose zero is not a standstill, nor where it begins with a picture, as in image-to-image: there the
            scheduler would take less noise to be left than there is; nor where there is but one evaluation.

    Raises:
        ValueError: the scale is not a finite number, zero_init_steps is not a whole number from 0, or, at the first
            step, it is above 0 and the model predicts no velocity of a flow.
    """

    def __init__(self, guidance_scale: float = 7.5, zero_init_steps: int | None = None):
        super().__init__(guidance_scale)
        self.zero_init_steps = None if zero_init_steps is None else whole("zero_init_steps", zero_init_steps, 0)

    def needs_uncond(self, step: Step) -> bool:
        """Not at a zeroed evaluation, nor at a scale of exactly 1."""
        return not self._zeroed(step) and self.guidance_scale != 1

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """As cond + (w - 1) (d - <d, uncond> / |uncond|^2 uncond), d = cond - uncond, which does not cancel."""
        c, u = precise(cond), precise(uncond)
        difference = c - u
        if self._zeroed(step):
            guided = self._zero(c, step)
        else:
            scale = self.guidance_scale - 1
            guided = torch.add(c, difference, alpha=scale)
            guided.addcmul_(u, ratio(inner(difference, u), squared_norm(u)), value=-scale)
        return restored(guided, cond), Measurement.of_tensors(c, difference, guided)

    def guide_cond(self, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """Zeros at a zeroed evaluation, else the conditional prediction."""
        return self._zero(cond, step) if self._zeroed(step) else cond

    def _zero(self, like: Tensor, step: Step) -> Tensor:
        step.decision = "zeroed"
        return torch.zeros_like(like)

    def _zeroed(self, step: Step) -> bool:
        flow = step.prediction == "flow"
        if self.zero_init_steps and not flow:
            raise ValueError(
                f"zero_init_steps={self.zero_init_steps} is for flow models, where a zero velocity is a standstill; "
                f"a zero {step.prediction} prediction is not: leave it out, or give 0"
            )
        if self.zero_init_steps is None:
            first = step.index == 0 and step.total > 1  # were it the only one, noise would be the result
            return flow and first and (not isinstance(step.sigma, float) or step.sigma >= NOISE_ALONE)
        return step.index < self.zero_init_steps
