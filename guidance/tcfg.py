"""Tangential damping classifier-free guidance (TCFG). Kwon et al., arXiv 2503.18137; prediction space."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Guidance
from .measurement import Measurement
from .step import Step
from .tensors import gram, precise, restored


class TangentialClassifierFreeGuidance(Guidance):
    """The unconditional prediction without what it does not share with the conditional one.

    Per sample, over all dimensions but the first, with v the first right singular vector of the rows [cond; uncond]:

        u' = <uncond, v> v;  guided = u' + w (cond - u')

    Where the two predictions are parallel, u' is uncond and the rule is plain guidance.

    Args:
        guidance_scale: w. Default 7.5 (diffusers'). At 1 the rule is the conditional prediction, and no unconditional
            evaluation is made.

    Raises:
        ValueError: the scale is not a finite number.
    """

    def needs_uncond(self, step: Step) -> bool:
        """Not at a scale of exactly 1."""
        return self.guidance_scale != 1

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """The decomposition in closed form, from the inner products; no singular value decomposition.

        With (p, q) the unit eigenvector of the larger eigenvalue of the 2 x 2 Gram matrix of cond and uncond, u' is
        q (p cond + q uncond). So cond - u' = p (p - q) cond + q^2 d, d = cond - uncond. The eigenvector stands at the
        angle pi / 4 - t, tan 2t = (|cond|^2 - |uncond|^2) / 2 <cond, uncond>, and in terms of t nothing cancels where
        cond is close to uncond: p (p - q) = sin t (cos t + sin t), q^2 = (cos t - sin t)^2 / 2.
        """
        c, u = precise(cond), precise(uncond)
        difference = c - u
        cc, cd, dd = gram(c, difference)
        t = torch.atan2(torch.sub(cd, dd, alpha=0.5), cc - cd).mul_(0.5)
        cos, sin = t.cos(), t.sin()
        scale = self.guidance_scale - 1
        guided = torch.addcmul(c, difference, (cos - sin).square_(), value=scale / 2)
        guided.addcmul_(c, (cos + sin).mul_(sin), value=scale)
        return restored(guided, cond), Measurement.of_tensors(c, difference, guided)
