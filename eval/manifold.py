"""Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from diffguide.pipelines.errors import UserError

NEIGHBOURS = 3  # of the paper


def precision_recall(
    features: Tensor, reference_features: Tensor, k: int = NEIGHBOURS, block: int = 2048
) -> tuple[float, float]:
    """How many images lie in the manifold of the reference, and the other way round.

    A manifold is the union of balls around its images, each reaching to the k-th nearest other one.

    Args:
        features: (n, d) of the images.
        reference_features: (m, d) of the reference.
        k: neighbours, 3 in the paper.
        block: rows whose distances are held at once: `block` x max(n, m) float64 numbers.

    Returns:
        Precision and recall, each in [0, 1].

    Raises:
        UserError: no more than k images on one side.
    """
    for side, what in ((features, "images"), (reference_features, "reference images")):
        if len(side) <= k:
            raise UserError(f"precision and recall at k = {k} need more than {k} {what}, not {len(side)}")
    x, y = features.double(), reference_features.double()
    return _inside(x, y, _radii(y, k, block), block), _inside(y, x, _radii(x, k, block), block)


def _radii(points: Tensor, k: int, block: int) -> Tensor:
    """Distance of each point to its k-th nearest other one; the point itself is the first of k + 1."""
    return torch.cat([torch.cdist(part, points).kthvalue(k + 1).values for part in points.split(block)])


def _inside(points: Tensor, centres: Tensor, radii: Tensor, block: int) -> float:
    hits = [(torch.cdist(part, centres) <= radii).any(1) for part in points.split(block)]
    return float(torch.cat(hits).double().mean())
