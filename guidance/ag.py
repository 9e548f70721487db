"""Adaptive guidance: Castillo et al., arXiv 2312.12487 (AAAI 2025), Section 4; the cosine is that of the noise."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Guidance, finite
from .step import Step
from .tensors import inner, precise, ratio
from .trace import Measurement


class AdaptiveGuidance(Guidance):
    """Plain guidance until both noise predictions agree, the conditional prediction alone from then on.

    Per sample: gamma = cos(eps_cond, eps_uncond). The first step with gamma >= threshold is still guided, since it has
    paid for both; every later one is conditional, whatever its gamma would be. In a batch the unconditional evaluation
    is left out once every sample has crossed; those that crossed earlier are conditional already, so that each image
    is what it would be alone. After its crossing a negative prompt no longer acts on an image.

    Whether all have crossed is read from the device once a step until they have: which evaluation to make next is a
    decision of the program, the only one in these rules that depends on a value.

    Args:
        guidance_scale: w of the guided steps. Default 7.5 (the paper's).
        threshold: gamma-bar, in (-1, 1]. Default 0.991, one of the paper's for a 512-pixel latent model; it depends on
            model, scheduler and number of steps. Above 1 no step is ever conditional.

    Raises:
        ValueError: an option is not a finite number.
    """

    space = "noise"

    def __init__(self, guidance_scale: float = 7.5, threshold: float = 0.991):
        super().__init__(guidance_scale)
        self.threshold = finite("threshold", threshold)

    def needs_uncond(self, step: Step) -> bool:
        """Not once every sample has crossed."""
        crossed: Tensor | None = step.state.get("crossed")
        if crossed is not None and not step.state.get("all_crossed"):
            step.state["all_crossed"] = bool(crossed.all())
        return self.guidance_scale != 1 and not step.state.get("all_crossed", False)

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """Scale w for the samples that had not crossed before this step, 1 for the others."""
        c, u = precise(cond), precise(uncond)
        difference = c - u
        x, _ = self.in_space(c, latents, step)
        y = u if x is c else x - difference
        cosine = ratio(inner(x, y), (inner(x, x) * inner(y, y)).sqrt())
        crossed = step.state.get("crossed")
        if crossed is None:
            crossed = torch.zeros_like(cosine, dtype=torch.bool)
        step.decision, step.state["crossed"] = crossed.flatten(), crossed | (cosine >= self.threshold)
        guided = torch.addcmul(u, difference, torch.where(crossed, 1.0, self.guidance_scale))
        return guided.to(cond.dtype), Measurement.of_tensors(c, difference, guided)
