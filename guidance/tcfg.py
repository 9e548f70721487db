"""Tangential damping classifier-free guidance (TCFG). Kwon et al., arXiv 2503.18137; prediction space."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Guidance
from .step import Step
from .tensors import inner, precise, ratio
from .trace import Measurement


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
        q (p cond + q uncond). So cond - u' = p (p - q) cond + q^2 d, d = cond - uncond.
        """
        c, u = precise(cond), precise(uncond)
        difference = c - u
        cc, cd, dd = inner(c, c), inner(c, difference), inner(difference, difference)
        cu = cc - cd
        gap = 2 * cd - dd  # |cond|^2 - |uncond|^2
        h = torch.hypot(gap, 2 * cu)  # the distance between the eigenvalues
        q_square = (1 - ratio(gap, h)) / 2
        h_less_2cu = torch.where(cu > 0, ratio(gap * gap, h + 2 * cu), h - 2 * cu)  # without cancellation
        pp_less_pq = ratio(gap + h_less_2cu, 2 * h)
        scale = self.guidance_scale - 1
        guided = torch.addcmul(c, difference, q_square, value=scale).addcmul_(c, pp_less_pq, value=scale)
        return guided.to(cond.dtype), Measurement.of_tensors(c, difference, guided)
