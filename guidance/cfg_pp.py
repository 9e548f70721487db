"""CFG++. Chung et al., arXiv 2406.08070 (ICLR 2025), Algorithm 2; for any solver, as a scale that follows its steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Guidance
from .basis import Scalar
from .checks import finite
from .measurement import Measurement
from .step import Step
from .tensors import per_sample, precise, restored


class ClassifierFreeGuidancePlusPlus(Guidance):
    """A guided denoised prediction, brought to the next noise level with the noise of the unconditional prediction.

    The paper changes the solver: x0 from uncond + lambda (cond - uncond), and x' = a x0 + s eps_uncond. In a step of
    first order that is plain guidance with a scale of the step's own, whatever the model predicts:

        guided = uncond + w_t (cond - uncond),  w_t = lambda / (1 - r'/r)

    r and r' being noise over signal at this level and the next one. So the scheduler stays as it is, flow models have
    the same rule, and the trace shows w_t: the closer the steps, the larger. At the last step w_t is lambda.

    Exact under DDIM (with eta 0), Euler, Euler ancestral, DDPM, LCM and the Euler and LCM steps of flow matching, where
    the last step ends without noise. Solvers of higher order take their own steps with these scales, which approximates
    what other programs do in theirs; a further evaluation within a step has the scale of the first.

    Args:
        guidance_scale: lambda times `unit`. Default 7.5, for a lambda of 0.6.
        unit: the guidance_scale at which lambda is 1. Default 12.5, so that scales are those of plain guidance that act
            alike in the paper, in its 50 steps (the authors' README: lambda in [0, 1] for 1 to 12.5). With unit=1
            guidance_scale is lambda itself.

    Raises:
        ValueError: an option is not a finite number, unit is not above 0, or a step whose scheduler does not say
            where it goes.
    """

    def __init__(self, guidance_scale: float = 7.5, unit: float = 12.5):
        super().__init__(guidance_scale)
        self.unit = finite("unit", unit)
        if self.unit <= 0:
            raise ValueError(f"unit must be above 0, not {unit!r}")

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """Plain guidance at the scale of this step."""
        c, u = precise(cond), precise(uncond)
        scale = per_sample(self._scale(step), c)
        guided = torch.lerp(u, c, scale.to(c) if isinstance(scale, Tensor) else scale)
        return restored(guided, cond), Measurement.of_scale(c, u, scale)

    def _scale(self, step: Step) -> Scalar:
        own = self.guidance_scale / self.unit
        kept, before = _kept(step), step.state.get("kept", 0.0)
        if isinstance(kept, Tensor):
            kept = torch.where(kept < 1, kept, before)
        elif kept >= 1:  # an evaluation that stays at its level, within a step that began before
            kept = before
        step.state["kept"] = kept
        return own / (1 - kept)


def _kept(step: Step) -> Scalar:
    """The share r'/r of the noise that is left at the next level; without what a scheduler draws anew."""
    (_, b), (_, q) = step.to_space("denoised"), step.to_space("noise")
    if step.kernel is None:
        raise ValueError("this scheduler does not say to which noise level its steps go: CFG++ needs another one")
    if isinstance(b, float) and b == 0:
        return math.inf  # there is no noise to go down from
    signal, noise = step.kernel
    kept = noise / signal * (-q / b)  # z = alpha x0 + sigma eps has sigma / alpha = -b / q
    return kept**step.renewal
