"""Adaptive guidance: Castillo et al., arXiv 2312.12487 (AAAI 2025), Section 4; the cosine is that of the noise."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from .base import Guidance
from .checks import finite
from .measurement import Measurement
from .step import Step
from .tensors import gram, per_sample, precise, ratio, restored

SPACES = ("noise", "denoised", "prediction")


class AdaptiveGuidance(Guidance):
    """Plain guidance until both predictions agree, the conditional prediction alone from then on.

    Per sample: gamma = cos(eps_cond, eps_uncond). The first step with gamma >= threshold is still guided, since it has
    paid for both; every later one is conditional, whatever its gamma would be. In a batch the unconditional evaluation
    is left out once every sample has crossed; those that crossed earlier are conditional already, so that each image
    is what it would be alone. After its crossing a negative prompt no longer acts on an image.

    Whether all have crossed is read from the device once a step until they have: which evaluation to make next is a
    decision of the program, the only one in these rules that depends on a value.

    Args:
        guidance_scale: w of the guided steps. Default 7.5 (the paper's).
        threshold: gamma-bar, a cosine. Default 0.991, one of the paper's for a 512-pixel latent model; it depends on
            model, scheduler and number of steps: `diffguide calibrate ag` finds it. Above 1 no step is conditional; at
            -1 or below all but the first are.
        space: whose cosine it is: "noise" (default, the paper's; derived from v and flow predictions), "denoised" or
            "prediction". At high noise both noise predictions are nearly the model input, and their cosine nearly 1
            whatever the model says, so that models trained on v or flow may cross at once: there the cosine of the
            denoised predictions, which rises from step to step, is the better one.

    Raises:
        ValueError: an option is not a finite number, or an unknown space.
    """

    def __init__(
        self,
        guidance_scale: float = 7.5,
        threshold: float = 0.991,
        space: Literal["noise", "denoised", "prediction"] = "noise",
    ):
        super().__init__(guidance_scale)
        self.threshold = finite("threshold", threshold)
        if space not in SPACES:
            raise ValueError(f"space must be one of {', '.join(SPACES)}, not {space!r}")
        self.space = space

    def needs_uncond(self, step: Step) -> bool:
        """Not once every sample has crossed."""
        crossed: Tensor | None = step.state.get("crossed")
        if crossed is not None and not step.state.get("all_crossed"):
            step.state["all_crossed"] = bool(crossed.all())
            if step.index == 1 and step.state["all_crossed"] and self.threshold > 0:
                warnings.warn(
                    f"every image was beyond threshold={self.threshold} at the first step already, so that the others "
                    'are conditional: calibrate it with `diffguide calibrate ag`, or use space="denoised"',
                    stacklevel=2,
                )
        return self.guidance_scale != 1 and not step.state.get("all_crossed", False)

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """Scale w for the samples that had not crossed before this step, 1 for the others."""
        c, u = precise(cond), precise(uncond)
        cosine = cosine_in(self.space, c, u, latents, step)
        crossed = step.state.get("crossed")
        if crossed is None:
            crossed = torch.zeros_like(cosine, dtype=torch.bool)
        step.decision, step.state["crossed"] = crossed.flatten(), crossed | (cosine >= self.threshold)
        scale = torch.full_like(cosine, self.guidance_scale).masked_fill_(crossed, 1.0)
        guided = torch.lerp(u, c, scale)
        return restored(guided, cond), Measurement.of_scale(c, u, scale)

    def guide_cond(self, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """The conditional prediction."""
        step.decision = "conditional"
        return cond


def cosine_in(space: str, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> Tensor:
    """The cosine of two predictions (B, ...) in a space, a scalar per sample; 0 where one of them is 0 there."""
    xx, xy, yy = gram(*_both_in(space, cond, uncond, latents, step))
    return ratio(xy, (xx * yy).sqrt())


def _both_in(space: str, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Both predictions there, up to a factor common to both.

    Not divided by b as `Guidance.in_space` does: it is 0 for the noise of flow models at sigma 1.
    """
    a, b = (per_sample(scalar, cond) for scalar in step.to_space(space))
    if isinstance(a, float) and isinstance(b, float):
        if a == 0:
            return cond, uncond
        z = precise(latents)
        return torch.add(z, cond, alpha=b / a), torch.add(z, uncond, alpha=b / a)
    z, factor = precise(latents) * a, torch.as_tensor(b, device=cond.device)
    return torch.addcmul(z, cond, factor), torch.addcmul(z, uncond, factor)
