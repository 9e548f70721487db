"""Seeded predictions for the rules, and the Steps of the four things a model can predict."""

import torch
from torch import Tensor

from diffguide.guidance import (
    AdaptiveGuidance,
    AdaptiveProjectedGuidance,
    BetaClassifierFreeGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeGuidancePlusPlus,
    ClassifierFreeZeroStarGuidance,
    DynamicThresholding,
    EnergyPreserving,
    FrequencyDecoupledGuidance,
    Interval,
    NormMatching,
    RatioAwareAdaptiveGuidance,
    ReflectingWall,
    Renorm,
    Rescale,
    Scheduled,
    Step,
    TangentialClassifierFreeGuidance,
)

SHAPES = [(2, 4, 8, 8), (3, 16, 32), (2, 4, 3, 5, 7)]  # image, tokens, video


def predictions(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """cond, uncond and latents; uncond is near cond, as models have it."""
    generator = torch.Generator().manual_seed(seed)
    cond, noise, latents = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    return cond.to(dtype), (cond + 0.4 * noise).to(dtype), latents.to(dtype)


def step(prediction: str = "epsilon", index: int = 0, state: dict | None = None, sigma: float = 1.7) -> Step:
    """A Step from noise level `sigma` to a third of it, or from and to these shares of noise for a flow model."""
    alpha = (1 + sigma**2) ** -0.5
    s = sigma * alpha
    t = sigma / (1 + sigma)
    maps = {
        "epsilon": ((1 / alpha, -s / alpha), (0.0, 1.0)),
        "v_prediction": ((alpha, -s), (s, alpha)),
        "sample": ((0.0, 1.0), (1 / s, -alpha / s)),
        "flow": ((1.0, -t), (1.0, 1 - t)),
    }
    denoised, noise = maps[prediction]
    state = {} if state is None else state
    later = sigma / 3
    kernel = (1 / (1 + later), later / (1 + later)) if prediction == "flow" else _unit(1.0, later)
    return Step(index, 4, 500.0, torch.tensor(sigma), prediction, denoised, noise, state, kernel=kernel)


def _unit(signal: float, noise: float) -> tuple[float, float]:
    norm = (signal**2 + noise**2) ** 0.5
    return signal / norm, noise / norm


RULES = [
    ClassifierFreeGuidance(7.5),
    ClassifierFreeGuidance(7.5, guidance_rescale=0.7),
    AdaptiveProjectedGuidance(7.5),
    RatioAwareAdaptiveGuidance(7.5),
    AdaptiveGuidance(7.5, threshold=0.9),
    AdaptiveGuidance(7.5, threshold=0.9, space="denoised"),
    ClassifierFreeZeroStarGuidance(7.5),
    ClassifierFreeGuidancePlusPlus(7.5),
    TangentialClassifierFreeGuidance(7.5),
    FrequencyDecoupledGuidance(7.5),
    FrequencyDecoupledGuidance(7.5, parallel_weights=0.3),
    BetaClassifierFreeGuidance(7.5),
    BetaClassifierFreeGuidance(7.5, gamma=0),
    Interval(AdaptiveProjectedGuidance(7.5), start=0.1),
    Scheduled(RatioAwareAdaptiveGuidance(7.5), "cosine"),
    Rescale(AdaptiveProjectedGuidance(7.5)),
    NormMatching(AdaptiveProjectedGuidance(7.5)),
    Renorm(ClassifierFreeGuidance(7.5)),
    EnergyPreserving(ClassifierFreeGuidance(7.5)),
    EnergyPreserving(ClassifierFreeGuidance(7.5), (45, 55)),
    DynamicThresholding(ClassifierFreeGuidance(7.5)),
    ReflectingWall(ClassifierFreeGuidance(7.5)),
]
