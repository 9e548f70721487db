"""Intervals by a paired bootstrap over seeds.

The same resampled seeds are used for every cell, so that what all cells share cancels in a difference. What is
resampled is one number per image: a metric's own for means (saturation, CLIPScore, ...), the jackknife's pseudo-value
for the Frechet distance. Resampling the images themselves would repeat some of them, which shrinks the covariance and
shifts every replicate upwards; pseudo-values have no such bias, and a replicate costs a mean.

The interval is one for the metric at this number of images: the Frechet distance of few images is too large, which
cancels in the difference of two cells only as far as their covariances are alike.

A bootstrap's interval of few images is too narrow, as one of the normal distribution is where Student's t should be; it
is widened by the ratio of the two (after Hesterberg, arXiv 1411.5279), 6 % at 24 images.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

METHOD = (
    "paired bootstrap over seeds of per-image values (Frechet distance: exact leave-one-out pseudo-values), widened by "
    "Student's t"
)
REPLICATES, LEVEL, SEED = 2000, 0.95, 0
ROWS = 64  # replicates drawn at once
FEWEST = 8
"""With fewer images no interval is given."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its interval, NaN where there are too few images for one."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Replicates of `images` paired images, the same for every value asked for.

    Args:
        images: n. replicates: how many; level: of the intervals; seed: of the resampling.
    """

    def __init__(self, images: int, replicates: int = REPLICATES, level: float = LEVEL, seed: int = SEED):
        self.images, self.level = images, level
        random = np.random.default_rng(seed)
        share = np.full(images, 1 / images)
        # A bootstrap's variance is (n - 1) / n of the unbiased one, which is undone.
        widened = np.sqrt(images / max(images - 1, 1)) * student_to_normal(level, max(images - 1, 1))
        self._weights = np.empty((replicates, images))
        for part in np.split(self._weights, range(ROWS, replicates, ROWS)):  # a view; of 50,000 images it has 0.8 GB
            part[:] = random.multinomial(images, share, size=len(part))
            part -= 1
            part *= widened / images

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


def student_to_normal(level: float, freedom: int) -> float:
    """How much wider a two-sided interval of Student's t is than that of the normal distribution.

    By the series in 1 / freedom of Abramowitz & Stegun, 26.7.5: to 0.1 % from 7 degrees of freedom on, at 95 %.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return 1 + sum(term / freedom**power for power, term in enumerate(terms, 1)) / z
