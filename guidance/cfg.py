"""Classifier-free guidance. Ho & Salimans, arXiv 2207.12598, in the convention of diffusers; prediction space.

Guidance rescale: Lin et al., arXiv 2305.08891, Section 3.4, published with phi = 0.7.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Guidance
from .checks import finite
from .measurement import Measurement
from .step import Step
from .tensors import precise, restored, variation


class ClassifierFreeGuidance(Guidance):
    """guided = uncond + w (cond - uncond), then a share of it brought back to the standard deviation of cond.

    Args:
        guidance_scale: w. Default 7.5 (diffusers'). At 1 no unconditional evaluation is made.
        guidance_rescale: phi in [0, 1], the share that is rescaled. 0 (default): plain guidance.

    Raises:
        ValueError: the scale is not a finite number, or phi is not in [0, 1].
    """

    def __init__(self, guidance_scale: float = 7.5, guidance_rescale: float = 0.0):
        super().__init__(guidance_scale)
        self.guidance_rescale = finite("guidance_rescale", guidance_rescale)
        if not 0 <= self.guidance_rescale <= 1:
            raise ValueError(f"guidance_rescale must be between 0 and 1, not {guidance_rescale!r}")

    def needs_uncond(self, step: Step) -> bool:
        """Not at a scale of exactly 1."""
        return self.guidance_scale != 1

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """On tensors rather than on coefficients: the pipelines' own expression in their own dtype, bit for bit, unless
        it is rescaled or corrected otherwise.
        """
        w = self.guidance_scale
        if step.exact and not self.guidance_rescale:
            difference = cond - uncond
            return (w * difference).add_(uncond), Measurement.of_scale(cond, uncond, w, difference)
        guided = torch.lerp(uncond, cond, w)  # in one pass
        measured = Measurement.of_scale(cond, uncond, w)
        if self.guidance_rescale:
            guided = rescaled(guided, cond, self.guidance_rescale)
            measured = measured.corrected(guided)
        return guided, measured


def rescaled(guided: Tensor, cond: Tensor, phi: float) -> Tensor:
    """(B, ...): phi times `guided` at the standard deviation of `cond`, and the rest of it as it is.

    A `guided` of zeros cannot be brought to that deviation, and stays. See `variation` for what is all but constant.
    """
    g = precise(guided)
    own = variation(g)  # first, while it is in the cache
    to_cond = (variation(precise(cond)) / own).sqrt().nan_to_num(nan=0.0, posinf=0.0)
    return restored(g * torch.lerp(torch.ones_like(to_cond), to_cond, phi), guided)
