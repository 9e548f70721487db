"""Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from diffguide.pipelines.errors import UserError

NEIGHBOURS = 3  # of the paper
EQUAL = 1e-7
"""Distances of less than this share of the norm are between features that are equal but for rounding."""


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
    return coverage(features, reference_features, k, block), coverage(reference_features, features, k, block)


def coverage(features: Tensor, centres: Tensor, k: int = NEIGHBOURS, block: int = 2048) -> float:
    """The share of `features` in the manifold of `centres`: precision, or recall with the two the other way round.

    UserError: no more than k images on one side.
    """
    for side in (features, centres):
        if len(side) <= k:
            raise UserError(f"precision and recall at k = {k} need more than {k} images on both sides, not {len(side)}")
    points, centres = features.double(), centres.double()
    radii = torch.cat([_distances(part, centres).kthvalue(k + 1).values for part in centres.split(block)])
    hits = [(_distances(part, centres) <= radii).any(1) for part in points.split(block)]
    return float(torch.cat(hits).double().mean())


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    """(n, m), by one formula whatever n is, and 0 between equal rows, for which it gives what rounding leaves."""
    found = torch.cdist(points, centres, compute_mode="use_mm_for_euclid_dist")
    return found.masked_fill_(found <= EQUAL * torch.linalg.vector_norm(points, dim=1, keepdim=True), 0)
