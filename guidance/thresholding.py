"""Corrections that keep the pixels of x0 in [-1, 1]. For models of pixels: latents have no such bounds.

In the prediction they are what they add to x0, so that nothing changes where x0 is inside the bounds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Guidance
from .checks import finite
from .modifiers import Correction
from .step import Step
from .tensors import per_sample, precise


class _Bounded(Correction):
    """A correction by a function of x0."""

    space = "denoised"

    def bounded(self, x0: Tensor) -> Tensor:
        """x0 (B, ...) as it should be."""
        raise NotImplementedError

    def correct(self, guided: Tensor, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """The prediction whose x0 is the bounded one."""
        g = precise(guided)
        x, b = self.in_space(g, latents, step)
        x0 = x * b
        return (g + (self.bounded(x0) - x0) / b).to(guided.dtype)


class DynamicThresholding(_Bounded):
    """Saturated pixels pushed inwards: Saharia et al. (Imagen), arXiv 2205.11487, Section 2.3.

    Per sample, over all dimensions but the first:

        s = max(1, quantile(|x0|));  x0 <- clip(x0, -s, s) / s

    The quantile is exact, by linear interpolation, at any number of elements. A scheduler with `thresholding=True`
    does the same after the rule, with an upper bound on s; one of the two is enough.

    Args:
        rule: the rule that is corrected.
        percentile: the quantile, as a share in (0, 1]. Default 0.995 (diffusers' schedulers, for Imagen's p).

    Raises:
        ValueError: `rule` is not a Guidance, or has this correction already, or the percentile is not in (0, 1].
    """

    order = 50

    def __init__(self, rule: Guidance, percentile: float = 0.995):
        super().__init__(rule)
        self.percentile = finite("percentile", percentile)
        if not 0 < self.percentile <= 1:
            raise ValueError(f"percentile must be a share above 0 and up to 1, not {percentile!r}")

    def bounded(self, x0: Tensor) -> Tensor:
        """Clipped at s and divided by it."""
        s = quantile(x0.abs(), self.percentile).clamp(min=1)
        return x0.clamp(-s, s) / s


class ReflectingWall(_Bounded):
    """x0 folded back into [-1, 1], as often as it needs: 1.25 becomes 0.75.

    After the reflection of Lou & Ermon, arXiv 2304.04740. It is not their method, whose model is trained for the walls:
    with any other model it turns oversaturated values into mid-greys (1.5 becomes 0.5, 2 becomes 0), where clipping
    would keep them saturated.

    Args:
        rule: the rule that is corrected.

    Raises:
        ValueError: `rule` is not a Guidance, or has this correction already.
    """

    order = 60

    def bounded(self, x0: Tensor) -> Tensor:
        """A triangle wave of period 4: 1 less than the distance of x0 + 1 to the nearest multiple of 4."""
        y = x0 + 1
        folded = torch.sub(y, (y / 4).round_(), alpha=4).abs_().sub_(1)
        return torch.where(x0.abs() <= 1, x0, folded)


def quantile(x: Tensor, share: float) -> Tensor:
    """(B, 1, ...): a quantile of each sample of (B, ...), interpolated between the two nearest of its elements.

    By selection rather than by sorting, and without the limit of `torch.quantile` on the number of elements.
    """
    flat = x.flatten(1)
    position = share * (flat.shape[1] - 1)
    below = int(position)
    from_there = flat.topk(flat.shape[1] - below, sorted=False).values
    nearest = from_there.topk(min(2, from_there.shape[1]), largest=False).values
    return per_sample(torch.lerp(nearest[:, 0], nearest[:, -1], position - below), x)
