"""The Frechet distance between Gaussians (Dowson and Landau 1982; FID: Heusel et al., arXiv 1706.08500, equation 6).

    |mu_a - mu_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2))

With any factor A = L L^T, the matrices A B and L^T B L have the same eigenvalues other than 0, and the second is
symmetric: the last trace is the sum of the square roots of its eigenvalues. No matrix's square root is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .statistics import Statistics, check_compatible


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """The distance, 0 or more up to rounding. UserError: a and b are not of the same network, weights or resize.

    Of two Gaussians the one of fewer images is factored, so that few images make small matrices.
    """
    check_compatible(a, b)
    if b.rank < a.rank:
        a, b = b, a
    factor = _factor(a.sigma, a.rank)
    root = _root_trace(factor.T @ b.sigma @ factor)
    return float((a.mu - b.mu).square().sum() + a.sigma.trace() + b.sigma.trace() - 2 * root)


def frechet_from_features(features: Tensor, reference: Statistics, weights: Tensor | None = None) -> float | Tensor:
    """The distance of the Gaussian fitted to `features` from the reference, for one or many weightings of the images.

    Args:
        features: (n, d), any floating dtype, on any device.
        reference: statistics of d features.
        weights: (n,) or (R, n), how often each image counts, such as the counts of R bootstrap samples; the covariance
            is normalised by their sum - 1. None: each once.

    Returns:
        A float, or for weights (R, n) a tensor (R,) in float64 on the CPU.

    With n < d no d x d matrix is decomposed: all that is needed follows from one n x n matrix, made once.
    """
    f = features.detach().cpu().double() - reference.mu  # (n, d)
    n = len(f)
    if n <= f.shape[1]:
        gram = f @ reference.sigma @ f.T
    else:
        f_root = f @ _factor(reference.sigma, reference.rank)  # (n, r)
    rows = torch.ones(1, n, dtype=f.dtype) if weights is None else weights.detach().cpu().to(f.dtype).reshape(-1, n)
    distances = []
    for w in rows:
        seen = w > 0
        total, x = w.sum(), f[seen]
        p = w[seen] / total
        mean = p @ x
        scale = (w[seen] / (total - 1)).sqrt()[:, None]
        if n <= f.shape[1]:
            k = gram[seen][:, seen]
            kp = k @ p
            root = _root_trace(scale * (k - kp[:, None] - kp + p @ kp) * scale.T)
        else:
            y = f_root[seen]
            y = scale * (y - p @ y)
            root = _root_trace(y.T @ y if len(y) > y.shape[1] else y @ y.T)
        spread = (w[seen] @ x.square().sum(1) - total * mean.square().sum()) / (total - 1)
        distances.append(mean.square().sum() + spread + reference.sigma.trace() - 2 * root)
    result = torch.stack(distances)
    return result if weights is not None and weights.ndim == 2 else float(result[0])


def shortage(*sides: Statistics) -> str | None:
    """What to know of a distance from so few images that a covariance is singular; None if none is."""
    few = [side for side in sides if side.n is not None and side.n <= len(side.mu)]
    if not few:
        return None
    counts = " and ".join(str(side.n) for side in few)
    return (
        f"{counts} images for {len(few[0].mu)} features: the covariance is singular, and the distance far too large; "
        "compare only with numbers from as many images"
    )


def _factor(sigma: Tensor, rank: int) -> Tensor:
    """L (d, r) with L L^T = sigma. A matrix that is not positive definite loses its eigenvalues of 0 and below."""
    if rank == len(sigma):
        factor, failed = torch.linalg.cholesky_ex(sigma)
        if not failed:
            return factor
    values, vectors = torch.linalg.eigh(sigma)
    values, vectors = values[-rank:], vectors[:, -rank:]
    positive = values > 0
    return vectors[:, positive] * values[positive].sqrt()


def _root_trace(matrix: Tensor) -> Tensor:
    """Sum of the square roots of the eigenvalues of a symmetric matrix; those that rounding made negative are 0."""
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2).clamp(min=0).sqrt().sum()
