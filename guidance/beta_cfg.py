"""Beta-CFG. Malarz et al., arXiv 2502.10574, and the authors' sampler `ddim_geo_beta`; prediction space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Guidance
from .checks import finite
from .measurement import Measurement
from .step import Step
from .tensors import precise, restored, squared_norm


class BetaClassifierFreeGuidance(Guidance):
    """Guidance that follows the density of a beta distribution over sampling, on a difference of normalised length.

    Per sample, over all dimensions but the first, d = cond - uncond:

        guided = uncond + w f(t; a, b) d / |d|^gamma,  f(t; a, b) = t^(a - 1) (1 - t)^(b - 1) / B(a, b)

    t is the share of sampling that is behind, in evaluations: 0 at the first, 1 at the last, as in the authors' code.
    For a and b above 1 the density is 0 at both, so that the first and the last evaluation are unconditional. Use a and
    b above 1 with many steps.

    Where gamma is not 0, w depends on the model: |d| grows as the square root of the number of elements of a latent, so
    at gamma=1 twice the side of an image needs twice the w.

    Args:
        guidance_scale: w. Default 7.5 (the authors' example script, for Stable Diffusion 1.5 and XL alike).
        a: first shape of the density, at least 1. Default 2 (the authors' example script).
        b: second shape, at least 1; the larger of a and b is the end of sampling that gets less. Default 2 (the same
            script; the example in the authors' README has 3).
        gamma: how far the length of d is normalised, 0 (not at all) to 1 (to length 1). Default 1 (the same script).

    With a=1, b=1 and gamma=0 the rule is plain guidance.

    Raises:
        ValueError: an option is not a finite number, a or b is below 1 (the density would be infinite at an end), or
            gamma is negative.
    """

    def __init__(self, guidance_scale: float = 7.5, a: float = 2.0, b: float = 2.0, gamma: float = 1.0):
        super().__init__(guidance_scale)
        self.a, self.b, self.gamma = finite("a", a), finite("b", b), finite("gamma", gamma)
        if min(self.a, self.b) < 1:
            raise ValueError(f"a and b must be at least 1, not {a!r} and {b!r}: the density is infinite at an end")
        if self.gamma < 0:
            raise ValueError(f"gamma must not be negative, not {gamma!r}")

    def needs_uncond(self, step: Step) -> bool:
        """Not where the difference comes in at its own length and a scale of exactly 1."""
        return self.gamma != 0 or self._scale(step) != 1

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """Two predictions that are the same are the guided one too."""
        c, u = precise(cond), precise(uncond)
        difference = c - u
        if self.gamma:
            square = squared_norm(difference)
            factor = torch.where(square > 0, square, 1.0).pow(-self.gamma / 2)
            guided = torch.addcmul(u, difference, factor, value=self._scale(step))
        else:
            guided = torch.add(u, difference, alpha=self._scale(step))
        return restored(guided, cond), Measurement.of_tensors(c, difference, guided)

    def _scale(self, step: Step) -> float:
        """w times the density."""
        t, a, b = step.progress, self.a, self.b
        norm = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))
        return self.guidance_scale * norm * t ** (a - 1) * (1 - t) ** (b - 1)
