"""How alike the images of two cells are, from the files that a comparison keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .metric_functions import Context, ssim
from .sampler import to_tensor
from .store import Store


def ssim_to_baseline(store: Store, cell: int, baseline: int | None) -> np.ndarray:
    """(n,) float64: the structural similarity of each image of a cell to the baseline's image of the same seed.

    NaN without a baseline.
    """
    if baseline is None or cell == baseline:
        return np.full(store.plan.num_images, np.nan if baseline is None else 1.0)
    values = []
    for batch in range(store.plan.batches):
        images = store.plan.images(batch)
        values.append(ssim(_pixels(store, cell, images), Context(baseline=_pixels(store, baseline, images))))
    return torch.cat(values).double().numpy()


def _pixels(store: Store, cell: int, images: Sequence[int]) -> Tensor:
    tensors = []
    for image in images:
        with Image.open(store.image_path(cell, image)) as picture:
            tensors.append(to_tensor(picture))
    return torch.stack(tensors)
