"""Corrections of the length of the guided prediction: what some pipelines do to it on their own account, and EP-CFG.

Under a rule the pipeline's own correction acts on a prediction that is already guided and equals both of its inputs,
so it does nothing; put around the rule here, it does what the pipeline would have done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from .base import Guidance
from .basis import Scalar
from .checks import finite
from .modifiers import Correction
from .step import Step
from .tensors import inner, per_sample, precise, restored, spare, squared_norm
from .thresholding import quantile


class NormMatching(Correction):
    """The guided prediction brought to the norm of the conditional one, token by token; prediction space.

    `NormMatching(ClassifierFreeGuidance(4.0))` is the native guidance of Qwen-Image and Lumina-Image-2.0.

    Args:
        rule: the rule that is corrected.
        dim: the dimension over which norms are taken; -1 (default), the channels of a token, as Qwen-Image has it
            (Lumina's latents are images, where it is the width).

    Raises:
        ValueError: `rule` is not a Guidance, or has this correction already, or `dim` is not a whole number.
    """

    order = 20

    def __init__(self, rule: Guidance, dim: int = -1):
        super().__init__(rule)
        self.dim = _dimension(dim)

    def correct(self, guided: Tensor, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """The pipelines' own expression in their own dtype, bit for bit."""
        if guided is cond:
            return guided
        return guided * _factor(_norm(cond, self.dim), _norm(guided, self.dim))


class Renorm(Correction):
    """The norm of the guided prediction at most `limit` times that of the conditional one; prediction space.

    What diffusers' Z-Image pipelines call `cfg_normalization`, and Lumina's own sampler `renorm_cfg`. Token by token,
    with dim=-1, it is the `enable_cfg_renorm` of LongCat-Image. A conditional prediction alone stays as it is.

    Args:
        rule: the rule that is corrected.
        limit: above 0. Default 1 (Lumina's sampler).
        dim: the dimension over which norms are taken; None (default): all but the first.

    Raises:
        ValueError: `rule` is not a Guidance, or has this correction already, `limit` is not a number above 0, or `dim`
            not a whole one.
    """

    order = 30

    def __init__(self, rule: Guidance, limit: float = 1.0, dim: int | None = None):
        super().__init__(rule)
        self.limit, self.dim = finite("limit", limit), None if dim is None else _dimension(dim)
        if self.limit <= 0:
            raise ValueError(f"limit must be above 0, not {limit!r}")

    def correct(self, guided: Tensor, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """One factor per sample or token."""
        if guided is cond:
            return guided
        g = precise(guided)
        factor = _factor(self.limit * self._norm(precise(cond)), self._norm(g)).clamp(max=1)
        if isinstance(step.decision, Tensor):  # samples of a batch that are conditional already
            factor = factor.masked_fill(per_sample(step.decision, g), 1.0)
        return restored(g * factor, guided)

    def _norm(self, x: Tensor) -> Tensor:
        return squared_norm(x).sqrt() if self.dim is None else _norm(x, self.dim)


class EnergyPreserving(Correction):
    """The guided prediction at the energy of the conditional one: EP-CFG, Zhang et al., arXiv 2412.09966.

    Denoised space, per sample, over all dimensions but the first, x0 of the guided and x0_c of the conditional
    prediction:

        x0 <- x0 (E(x0_c) / E(x0))^(1/2),  E(x) = |x|^2

    Args:
        rule: the rule that is corrected.
        percentiles: (low, high), 0 <= low < high <= 100, for the paper's robust variant, whose energy is that of the
            elements between these two percentiles alone; (45, 55) in a port that cites the paper. Default None: the
            energy of all elements.

    Raises:
        ValueError: `rule` is not a Guidance, or has this correction already, or percentiles are not in order.
    """

    order = 40
    space = "denoised"
    changes_all = True

    def __init__(self, rule: Guidance, percentiles: tuple[float, float] | None = None):
        super().__init__(rule)
        if percentiles is not None:
            if not isinstance(percentiles, Sequence) or isinstance(percentiles, str) or len(percentiles) != 2:
                raise ValueError(f"percentiles must be two numbers, not {percentiles!r}")
            low, high = (finite("a percentile", value) for value in percentiles)
            if not 0 <= low < high <= 100:
                raise ValueError(f"percentiles must be 0 <= low < high <= 100, not {percentiles!r}")
        self.percentiles = None if percentiles is None else (low, high)

    def correct(self, guided: Tensor, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """One factor per sample on x0; in the prediction, what that adds to x0, in units of b."""
        if guided is cond:
            return guided
        c, g = precise(cond), precise(guided)
        x, b = self.in_space(c, latents, step)
        wanted = self._energy(x, b)
        x, b = self.in_space(g, latents, step, out=spare(None if x is c else x, g))
        more = _factor(wanted, self._energy(x, b)).sqrt() - 1
        return restored(torch.addcmul(g, x, more, out=spare(None if x is g else x, g)), guided)

    def _energy(self, x: Tensor, b: Scalar) -> Tensor:
        """That of x0 = x b, in units of b^2."""
        if self.percentiles is None:
            return squared_norm(x)
        x = x * (torch.sign(b) if isinstance(b, Tensor) else math.copysign(1, b))  # in the order of x0
        low, high = (quantile(x, percentile / 100) for percentile in self.percentiles)
        return inner(x, torch.where((x >= low) & (x <= high), x, 0.0))


def _norm(x: Tensor, dim: int) -> Tensor:
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim={dim} is not one of the {x.ndim} dimensions of this model's predictions")
    return x.norm(dim=dim, keepdim=True)


def _dimension(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"dim must be the number of a dimension, not {value!r}")
    return int(value)


def _factor(wanted: Tensor, norm: Tensor) -> Tensor:
    """wanted / norm; 1 where the norm is 0, since no factor changes a zero."""
    return (wanted / norm).nan_to_num(nan=1.0, posinf=1.0)
