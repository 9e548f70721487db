"""The Frechet distance of a sample, and exactly what it is without each one of its images, at the cost of one.

With centred features X (n, d), the reference's covariance R R and Y = X R, the coupling term of the distance is the sum
of the singular values of Y over sqrt(n - 1), the trace of a square root. Without image i, Y'Y loses c y_i y_i' with
c = n / (n - 1) (the mean moves too), and from

    tr sqrt(A) = (1 / pi) integral over u > 0 of log det(1 + A / u^2),    det(A + t - c y y') = det(A + t) (1 - c h(t)),
    h_i(t) = y_i' (A + t)^-1 y_i = sum over j of U_ij^2 s_j^2 / (s_j^2 + t)

follows that it falls by -(1 / pi) integral of log(1 - c h_i(u^2)) du: one decomposition for all images. The integrand
is smooth in log u, where the trapezoidal rule converges exponentially; its tail beyond the last node is known.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NODES = 192
REACH = 16.0  # how far the nodes go beyond the singular values, in units of log u
RANK = 1e-7  # singular values below this share of the largest are rounding
ROWS = 4096  # images at a time


class FrechetReference:
    """Mean and square root of the covariance of a reference, float64.

    Args:
        mu: (d,). sigma: (d, d), symmetric and positive semidefinite.
    """

    def __init__(self, mu: Tensor, sigma: Tensor):
        values, vectors = torch.linalg.eigh(sigma.double())
        self.mu = mu.double()
        self.root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        self.trace = values.clamp(min=0).sum()


def leave_one_out(features: Tensor, reference: FrechetReference) -> tuple[float, Tensor]:
    """The Frechet distance of features (n, d) to the reference, and that of the n samples without one of them.

    n is at least 3. Returns a number and (n,) float64; covariances are divided by n - 1 and n - 2.
    """
    x = features.to(reference.root)
    n = len(x)
    mean = x.mean(0)
    x = x - mean
    squares = x.square().sum(1)
    y = x @ reference.root
    shares, singular = _left_shares(y)
    nuclear, total = singular.sum(), squares.sum()
    shift = mean - reference.mu

    value = shift.square().sum() + total / (n - 1) + reference.trace - 2 * nuclear / math.sqrt(n - 1)
    without = nuclear - torch.cat([_drop(part, singular, n / (n - 1)) for part in shares.split(ROWS)])
    means = (shift - x / (n - 1)).square().sum(1)
    spread = (total - n / (n - 1) * squares) / (n - 2)
    return value.item(), means + spread + reference.trace - 2 * without / math.sqrt(n - 2)


def pseudo_values(value: float, left_out: Tensor) -> Tensor:
    """(n,): n F - (n - 1) F without i; the standard deviation of their mean is the jackknife's standard error."""
    n = len(left_out)
    return n * value - (n - 1) * left_out


def _left_shares(y: Tensor) -> tuple[Tensor, Tensor]:
    """Squares of the left singular vectors of y (n, d), (n, r), and its singular values (r,), rounding left out."""
    n, d = y.shape
    if n <= d:
        values, vectors = torch.linalg.eigh(y @ y.T)
        singular = values.clamp(min=0).sqrt()
        keep = singular > RANK * singular.max()
        return vectors[:, keep].square(), singular[keep]
    values, vectors = torch.linalg.eigh(y.T @ y)
    singular = values.clamp(min=0).sqrt()
    keep = singular > RANK * singular.max()
    return (y @ (vectors[:, keep] / singular[keep])).square(), singular[keep]


def _drop(shares: Tensor, singular: Tensor, c: float) -> Tensor:
    """(n,): by how much the sum of the singular values falls when a row is left out."""
    if not len(singular):  # all images are alike
        return shares.new_zeros(len(shares))
    ends = math.log(singular.min().item()) - REACH, math.log(singular.max().item()) + REACH
    grid = torch.linspace(*ends, NODES, dtype=singular.dtype, device=singular.device)
    u, width = grid.exp(), (ends[1] - ends[0]) / (NODES - 1)
    # 1 - c h, written without cancellation where h is close to 1: the share outside the span, and what t leaves. Both
    # together are made 1 at infinity: what rounding leaves there, the integral would see at the scale of its last node.
    total = shares.sum(1)
    outside = (1 - c * total).clamp(min=0)
    outside = torch.where(outside < 1e-9, 0.0, outside)
    within = shares * ((1 - outside) / total.clamp(min=torch.finfo(total.dtype).tiny))[:, None]
    rest = outside[:, None] + within @ (u.square() / (singular.square()[:, None] + u.square()))
    inside = -(rest.clamp(max=1).log() * u).sum(1) * width
    tail = (within @ singular.square()) / u[-1]
    return (inside + tail) / math.pi
