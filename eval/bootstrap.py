"""Intervals by a paired bootstrap over seeds.

The same resampled seeds are used for every cell, so that what all cells share cancels in a difference. What is
resampled is one number per image: a metric's own for means (saturation, CLIPScore, ...), the jackknife's pseudo-value
for the Frechet distance. Resampling the images themselves would repeat some of them, which shrinks the covariance and
shifts every replicate upwards; pseudo-values have no such bias, and a replicate costs a mean.

The interval is one for the metric at this number of images: the Frechet distance of few images is too large, which
cancels in the difference of two cells only as far as their covariances are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METHOD = "paired bootstrap over seeds of per-image values (Frechet distance: exact leave-one-out pseudo-values)"
REPLICATES, LEVEL, SEED = 2000, 0.95, 0
FEWEST = 8
"""With fewer images no interval is given."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its interval, NaN where there are too few images for one."""

    value: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


class Bootstrap:
    """Replicates of `images` paired images, the same for every value asked for.

    Args:
        images: n. replicates: how many; level: of the intervals; seed: of the resampling.
    """

    def __init__(self, images: int, replicates: int = REPLICATES, level: float = LEVEL, seed: int = SEED):
        self.images, self.level = images, level
        random = np.random.default_rng(seed)
        share = np.full(images, 1 / images)
        counts = random.multinomial(images, share, size=replicates).astype(np.float64)
        # A bootstrap's variance is (n - 1) / n of the unbiased one; the factor undoes that.
        self._weights = (counts / images - 1 / images) * np.sqrt(images / max(images - 1, 1))

    def interval(self, value: float, per_image: np.ndarray) -> Interval:
        """The interval of `value`.

        value: the estimate. per_image: (n,), whose mean fluctuates as the estimate does; for a difference or any other
        linear combination of metrics, that of theirs.
        """
        if self.images < FEWEST or not np.isfinite(per_image).all() or not np.isfinite(value):
            return Interval(value, np.nan, np.nan)
        deviations = self._weights @ per_image
        tail = (1 - self.level) / 2
        low, high = np.quantile(deviations, [tail, 1 - tail])
        return Interval(value, value + low, value + high)
