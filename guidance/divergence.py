"""How far apart two Gaussians N(m1, s^2 I) and N(m2, s^2 I) are: what bounds a move in the sense of ROCM.

Shekhar & Zhang, arXiv 2503.06171, keep each step of a consistency sampler, a Gaussian of known spread, near that of a
reference model. Both have the same s, so that every divergence is a function of delta = |m1 - m2| / s alone:

    kl          delta^2 / 2, in both directions       tv        2 Phi(delta / 2) - 1, below 1
    hellinger   1 - exp(-delta^2 / 8), the square of  fisher    delta^2 / s^2, without an upper limit
                the Hellinger distance, below 1       js        an integral in delta, below log 2

The bounded ones saturate: where delta^2 is the sum over many dimensions they are at their limit for any move that can
be seen, and say no more of it. Normalised by the number of dimensions, delta^2 / n, they are those of one dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NODES = 257
REACH = 9.0
"""The integral over a standard normal variable t: a trapezoidal sum on [-REACH, REACH], exact to rounding for what is
as smooth as this; beyond, the density is below 1e-18."""

HALVINGS = 80


@dataclass(frozen=True)
class Divergence:
    """One divergence between Gaussians that differ in their mean, both ways. Tensors keep shape, dtype and device.

    name: how it is called. limit: what it stays below, infinity where it has no limit.
    """

    name: str
    limit: float
    _value: Callable[[Tensor], Tensor]
    _inverse: Callable[[Tensor], Tensor]
    by_noise: bool = False
    """Whether it is a function of delta / s rather than of delta."""

    def value(self, delta: Tensor, s: Tensor | float = 1.0) -> Tensor:
        """The divergence at delta >= 0, in standard deviations; s, the standard deviation, counts for "fisher"."""
        return self._value(delta / s if self.by_noise else delta)

    def radius(self, bound: Tensor, s: Tensor | float = 1.0) -> Tensor:
        """The delta at which the divergence is `bound`, from 0 up to, exclusive, `limit`."""
        return self._inverse(bound) * (s if self.by_noise else 1.0)

    def reach(self, bound: float) -> float:
        """`radius` of a number, at s = 1. ValueError: it is not a number above 0 and below the limit."""
        number = isinstance(bound, (int, float)) and not isinstance(bound, bool) and math.isfinite(bound)
        if not number or not 0 < bound < self.limit:
            below = "" if self.limit == math.inf else f" and below {self.limit:.4g}"
            raise ValueError(f"{self.name}, the bound on the move of a step, must be above 0{below}, not {bound!r}")
        return float(self.radius(torch.tensor(bound, dtype=torch.float64)))


def _jensen_shannon(delta: Tensor) -> Tensor:
    """E over t ~ N(0, 1) of h(y), y = delta (t + delta / 2) / 2, h(y) = y tanh y - log cosh y.

    From the definition, with both densities relative to their mean, 1 - w and 1 + w for w = tanh y: what is integrated
    is nowhere negative, so that nothing cancels at small delta.
    """
    t = torch.linspace(-REACH, REACH, NODES, dtype=delta.dtype, device=delta.device)
    weight = torch.exp(-t.square() / 2)
    y = (delta[..., None] * (t + delta[..., None] / 2) / 2).abs()
    e, w = torch.exp(-2 * y), y.tanh()
    far = math.log(2) - torch.log1p(e) - 2 * y * e / (1 + e)
    near = y * w + torch.log1p(-w.square().clamp(max=0.6)) / 2  # tanh(1)^2 = 0.58: its gradient exists everywhere
    return (torch.where(y < 1, near, far) * weight).sum(-1) / weight.sum()


def _inverse_jensen_shannon(bound: Tensor) -> Tensor:
    """By bisection, a fixed number of times, so that no value is read."""
    low, high = torch.zeros_like(bound), torch.full_like(bound, 40.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = _jensen_shannon(middle) < bound
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


DIVERGENCES = {
    divergence.name: divergence
    for divergence in (
        Divergence("kl", math.inf, lambda u: u.square() / 2, lambda bound: (2 * bound).sqrt()),
        Divergence("hellinger", 1.0, lambda u: -torch.expm1(-u.square() / 8), lambda b: (-8 * torch.log1p(-b)).sqrt()),
        Divergence("js", math.log(2), _jensen_shannon, _inverse_jensen_shannon),
        Divergence("tv", 1.0, lambda u: torch.erf(u / 8**0.5), lambda bound: 8**0.5 * torch.erfinv(bound)),
        Divergence("fisher", math.inf, torch.square, torch.sqrt, by_noise=True),
    )
}
"""By name."""
