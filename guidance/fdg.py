"""Frequency-decoupled guidance (FDG). Sadat et al., arXiv 2506.19713, Algorithms 1 and 2; denoised space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Guidance
from .checks import finite, whole
from .measurement import Measurement
from .pyramid import bands, gaussians, padded, rebuilt, weighted
from .step import Step
from .tensors import inner, precise, ratio, restored, squared_norm


class FrequencyDecoupledGuidance(Guidance):
    """Its own scale for each band of a Laplacian pyramid of the denoised predictions: high for detail, low for layout.

    Per sample and band l, from high to low frequency, with c_l of cond and d_l of cond - uncond:

        guided_l = c_l + (w_l - 1) (d_l - (1 - k_l) <d_l, c_l> / |c_l|^2 c_l)

    With equal scales and no parallel weights it is plain guidance. Without parallel weights it is the same in every
    space, since the pyramid is linear. Sides that the pyramid does not divide are padded as the authors' are, then cut.

    Args:
        guidance_scale: w of the highest frequencies. Default 10 (Table 8 (a) of the paper, SDXL; 7 for SD 2.1 and SD3).
            The others do not follow it: at 1 the rule is not the conditional prediction, but guides the layout alone.
        low_scale: w of the lowest, the scales of other bands evenly between; or a list with the scale of every band but
            the highest, from high to low frequency. Default 5 (the same table, SDXL; 3 for SD 2.1 and SD3).
        levels: bands, at least 2. Default 2 (the paper's).
        parallel_weights: k, the share that is kept of a band's update parallel to cond: one number, or a list from high
            to low frequency. Default None: all of it (the paper's).

    Raises:
        ValueError: a scale or weight is not a finite number, their count is not that of the levels, or, at the first
            step, predictions have no height and width (token sequences) or are too small for the levels.
    """

    space = "denoised"

    def __init__(
        self,
        guidance_scale: float = 10.0,
        low_scale: float | Sequence[float] = 5.0,
        levels: int = 2,
        parallel_weights: float | Sequence[float] | None = None,
    ):
        super().__init__(guidance_scale)
        levels = whole("levels", levels, 2)
        self.low_scale = _numbers("low_scale", low_scale, levels - 1)
        self.levels = levels
        self.parallel_weights = (
            None if parallel_weights is None else _numbers("parallel_weights", parallel_weights, levels)
        )

    @property
    def scales(self) -> list[float]:
        """w of each band, from high to low frequency."""
        high, low, bands = self.guidance_scale, self.low_scale, self.levels - 1
        if isinstance(low, float):
            return [high, *(high + (low - high) * (k + 1) / bands for k in range(bands - 1)), low]
        return [high, *low]

    def needs_uncond(self, step: Step) -> bool:
        """Not where every scale is exactly 1."""
        return any(scale != 1 for scale in self.scales)

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """Algorithm 2, on the difference: what is added to cond is one pyramid, not two."""
        if cond.ndim < 4:
            raise ValueError(
                f"frequencies need a height and a width, but predictions of shape {tuple(cond.shape)} are sequences of "
                "tokens: use another rule with this pipeline"
            )
        c = precise(cond)
        difference = c - precise(uncond)
        factors = [scale - 1 for scale in self.scales]
        plain = self.parallel_weights is None
        pyramid = gaussians(padded(difference, self.levels, whole=not plain), self.levels)
        if plain:
            update = weighted(pyramid, factors)
        else:
            x, _ = self.in_space(c, latents, step)
            own = bands(gaussians(padded(x, self.levels, whole=True), self.levels))
            update = rebuilt([f * band for f, band in zip(factors, self._damped(bands(pyramid), own))])
        update = update[..., : cond.shape[-2], : cond.shape[-1]].reshape(cond.shape)
        guided = c + update
        return restored(guided, cond), Measurement.of_tensors(c, difference, guided)

    def _damped(self, updates: list[Tensor], own: list[Tensor]) -> list[Tensor]:
        """The bands of the update with their share of what is parallel to the bands of cond."""
        weights = self.parallel_weights
        weights = weights if isinstance(weights, list) else [weights or 0.0] * self.levels
        return [
            torch.addcmul(band, x, ratio(inner(band, x), squared_norm(x)), value=weight - 1)
            for band, x, weight in zip(updates, own, weights)
        ]


def _numbers(name: str, values: float | Sequence[float], count: int) -> float | list[float]:
    """One finite number for all, or `count` of them."""
    if not isinstance(values, Sequence):
        return finite(name, values)
    if len(values) != count:
        raise ValueError(f"{name} needs {count} numbers here, or one for all, not {list(values)!r}")
    return [finite(name, value) for value in values]
