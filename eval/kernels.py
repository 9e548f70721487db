"""Kernel distances between sets of features, and the Inception Score."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffguide.pipelines.errors import UserError

SUBSETS, SUBSET_SIZE = 100, 1000  # of torch-fidelity and torchmetrics
SPLITS = 10  # of the Inception Score's paper
_SEED = 2020  # of torch-fidelity, so that both draw the same subsets


def kid(
    features: Tensor, reference: Tensor, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE
) -> tuple[float, float | None]:
    """Kernel Inception Distance (Binkowski et al., arXiv 1801.01401): mean and standard deviation over subsets.

    The unbiased squared MMD with the kernel (x.y / d + 1)^3, so slightly below 0 for equal sets. The deviation is None
    where each subset is all there is on both sides: it would be 0, and say nothing.

    Args:
        features: (n, d) of the images.
        reference: (m, d).
        subsets: how many pairs of subsets are drawn, without replacement, always the same ones.
        subset_size: images in each; all of the smaller side where that has fewer.

    Raises:
        UserError: fewer than two images on one side.
    """
    size = min(subset_size, len(features), len(reference))
    if size < 2:
        raise UserError(f"KID needs 2 images at least on both sides, not {len(features)} and {len(reference)}")
    x, y = features.double(), reference.double()
    draw = np.random.RandomState(_SEED)
    drawn = [[draw.choice(len(side), size, replace=False) for side in (x, y)] for _ in range(subsets)]
    rows = [torch.from_numpy(np.stack(each)).to(x.device) for each in zip(*drawn)]
    whole = len(x) ** 2 + len(x) * len(y) + len(y) ** 2 < 3 * subsets * size**2
    values = (_mmd_from_whole if whole else _mmd_each)(x, y, *rows)
    return float(values.mean()), None if size == len(x) == len(y) else float(values.std(correction=0))


def _mmd_each(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """(subsets,): the unbiased squared MMD between rows i (subsets, size) of x and rows j of y, one by one."""
    from torchmetrics.image.kid import poly_mmd

    return torch.stack([poly_mmd(x[a], y[b]) for a, b in zip(i, j)])


def _mmd_from_whole(x: Tensor, y: Tensor, i: Tensor, j: Tensor, block: int = 1024) -> Tensor:
    """The same from the kernel between all images, of which each entry is taken once."""
    from torchmetrics.image.kid import poly_kernel

    in_x, in_y = (side.new_zeros(len(i), len(side)).scatter_(1, rows, 1) for side, rows in ((x, i), (y, j)))

    def total(a: Tensor, b: Tensor, in_a: Tensor, in_b: Tensor) -> Tensor:
        parts = zip(a.split(block), in_a.split(block, dim=1))
        return sum(((share @ poly_kernel(part, b)) * in_b).sum(1) for part, share in parts)

    def apart(a: Tensor, in_a: Tensor) -> Tensor:
        """Without the images with themselves."""
        return total(a, a, in_a, in_a) - in_a @ (a.square().mean(1) + 1) ** 3

    size = i.shape[1]
    return (apart(x, in_x) + apart(y, in_y)) / (size * (size - 1)) - 2 * total(x, y, in_x, in_y) / size**2


def cmmd(features: Tensor, reference: Tensor, block: int = 2048) -> float:
    """CLIP-MMD (Jayasumana et al., arXiv 2401.09603): 1000 times the squared MMD of unit CLIP embeddings.

    Gaussian kernel of width 10; the estimate with the diagonal, as in the authors' code.
    """
    x, y = F.normalize(features.double()), F.normalize(reference.double())

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        sums = [torch.exp((part @ b.T - 1) / 10**2).sum() for part in a.split(block)]  # |a - b|^2 = 2 - 2 a.b
        return torch.stack(sums).sum() / (len(a) * len(b))

    return 1000 * float(mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """Inception Score (Salimans et al., arXiv 1606.03498): mean and standard deviation over splits.

    Args:
        logits: (n, classes), of the images in an order that does not matter: they are shuffled, always the same way.
        splits: into how many parts.

    Raises:
        UserError: fewer images than splits.
    """
    if len(logits) < splits:
        raise UserError(f"the Inception Score over {splits} splits needs {splits} images at least, not {len(logits)}")
    order = torch.from_numpy(np.random.RandomState(_SEED).permutation(len(logits))).to(logits.device)
    log_p = logits[order].double().log_softmax(1)
    scores = []
    for i in range(splits):
        part = log_p[i * len(logits) // splits : (i + 1) * len(logits) // splits]
        marginal = part.exp().mean(0).log()
        scores.append((part.exp() * (part - marginal)).sum(1).mean().exp())
    result = torch.stack(scores)
    return float(result.mean()), float(result.std(correction=0))
