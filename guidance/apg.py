"""Adaptive projected guidance. Sadat, Hilliges & Weber, arXiv 2410.02416 (ICLR 2025), Algorithm 1; denoised space."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .base import Guidance
from .basis import Scalar
from .checks import finite
from .measurement import Measurement
from .step import Step
from .tensors import TINY, gram, precise, ratio, restored, spare, squared_norm

SPACES = ("denoised", "prediction")

# Table 10 of the paper: w, eta, r, beta, with r an L2 norm over the model's whole latent.
PRESETS: dict[str, dict[str, float]] = {
    "edm2-s": {"guidance_scale": 4.0, "eta": 0.0, "norm_threshold": 2.5, "momentum": -0.75},
    "dit-xl-2": {"guidance_scale": 4.0, "eta": 0.0, "norm_threshold": 5.0, "momentum": -0.5},
    "sd-2.1": {"guidance_scale": 10.0, "eta": 0.0, "norm_threshold": 7.5, "momentum": -0.75},
    "sdxl": {"guidance_scale": 15.0, "eta": 0.0, "norm_threshold": 15.0, "momentum": -0.5},
}


class AdaptiveProjectedGuidance(Guidance):
    """The update loses its momentum's overshoot, its excess norm and its part parallel to cond, which saturates.

    In denoised space, per sample, over all dimensions but the first:

        m <- d + beta m;  u = m min(1, r / |m|);  guided = cond + (w - 1) (u_orthogonal + eta u_parallel to cond)

    Args:
        guidance_scale: w. Default 10 (SD 2.1, Table 10). At 1 the rule is the conditional prediction, and no
            unconditional evaluation is made.
        eta: how much of the parallel part is kept. 0 (default, the paper's advice) to 1 (all of it).
        norm_threshold: r, the largest L2 norm of the update over the whole latent, as the paper states it; 0: no cap.
            None (default): `norm_per_element`, which carries over between resolutions and channel counts.
        momentum: beta, in (-1, 1); the paper uses -0.75 to -0.5, always negative. Default -0.5 (SDXL, Table 10).
        norm_per_element: r divided by the square root of the number of elements of one latent. The default, 15 / 256,
            is SDXL's r = 15 on 4 x 128 x 128 (Table 10); SD 2.1's 7.5 on 4 x 64 x 64 is the same number.
        space: "denoised" (default, the paper's) or "prediction": the same steps on the model's raw outputs, which is
            another rule, with other norms and directions. It is what the APG guider of diffusers does, for comparison.

    With eta=1, norm_threshold=0 and momentum=0 the rule is plain classifier-free guidance.

    Raises:
        ValueError: an option is not a finite number, momentum is not inside (-1, 1) (it would diverge), a cap is
            negative, or an unknown space.
    """

    presets = PRESETS

    def __init__(
        self,
        guidance_scale: float = 10.0,
        eta: float = 0.0,
        norm_threshold: float | None = None,
        momentum: float = -0.5,
        norm_per_element: float = 15 / 256,
        space: Literal["denoised", "prediction"] = "denoised",
    ):
        super().__init__(guidance_scale)
        self.eta = finite("eta", eta)
        self.norm_threshold = None if norm_threshold is None else finite("norm_threshold", norm_threshold)
        self.momentum = finite("momentum", momentum)
        self.norm_per_element = finite("norm_per_element", norm_per_element)
        if not -1 < self.momentum < 1:
            raise ValueError(f"momentum must be inside (-1, 1), not {momentum!r}: it would grow at every step")
        if min(self.norm_threshold or 0, self.norm_per_element) < 0:
            raise ValueError("norm_threshold and norm_per_element must not be negative; 0 is no cap")
        if space not in SPACES:
            raise ValueError(f"space must be {' or '.join(SPACES)}, not {space!r}")
        self.space = space

    def needs_uncond(self, step: Step) -> bool:
        """Not at a scale of exactly 1."""
        return self.guidance_scale != 1

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """Algorithm 1, in its order: momentum, norm cap, projection, combination. On tensors, where it is cheapest."""
        c = precise(cond)
        difference = c - precise(uncond)
        x, b = self.in_space(c, latents, step)
        m = self._with_momentum(difference, b, step)
        scale, cap = self.guidance_scale - 1, self._cap(math.prod(c.shape[1:]))
        if self.eta == 1:
            mm, update = squared_norm(m) if cap else None, m
        else:
            mm, mx, xx = gram(m, x)
            update = torch.addcmul(m, x, ratio(mx, xx), value=self.eta - 1, out=spare(None if x is c else x, m))
        out = spare(None if update is m else update, c)
        if mm is None or not cap:
            guided = torch.add(c, update, alpha=scale, out=out)
        else:
            shrink, unit = _shrink(mm, cap * (b * b) ** -0.5)
            guided = torch.addcmul(c, update, shrink, value=scale * unit, out=out)
        return restored(guided, cond), Measurement.of_tensors(c, difference, guided)

    def _with_momentum(self, difference: Tensor, b: Scalar, step: Step) -> Tensor:
        """d + beta m, both in units of b, which changes from step to step; the buffer's memory is used again."""
        if not self.momentum:
            return difference
        m = difference
        if "momentum" in step.state:
            buffer, its_b = step.state["momentum"]
            beta = self.momentum * its_b / b
            if isinstance(beta, float):
                m = torch.add(difference, buffer, alpha=beta, out=spare(buffer, difference))
            else:
                m = torch.addcmul(difference, buffer, beta.to(buffer), out=spare(buffer, difference))
        step.state["momentum"] = (m, b)
        return m

    def _cap(self, numel: int) -> float:
        return self.norm_threshold if self.norm_threshold is not None else self.norm_per_element * math.sqrt(numel)


def _shrink(mm: Tensor, r: Scalar) -> tuple[Tensor, float]:
    """(s, k) with s k = min(1, r / |m|), mm = |m|^2; k costs nothing where it is used."""
    if isinstance(r, Tensor):
        return (mm.clamp(min=TINY).rsqrt() * r).clamp(max=1), 1.0
    r = min(max(r, 1e-15), 1e15)  # so that its square is a number in float32
    return mm.clamp(min=r * r).rsqrt(), r
