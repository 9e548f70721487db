"""APG on real pipelines against a denoising loop written by hand from the paper, in float64.

The loop is that of `loops`, the rule Algorithm 1 of arXiv 2410.02416 in x0 space.
"""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from loops import STEPS, sd3_loop, sd_loop
from tiny import BETAS, FAMILIES, ddim
from tiny_family import Family
from torch import Tensor

from diffguide.guidance import AdaptiveProjectedGuidance
from diffguide.pipelines import guide

BY_NAME = {family.name: family for family in FAMILIES}
SETTINGS = [  # eta, norm_threshold, momentum
    (0.0, 0.0, 0.0),
    (0.0, 2.0, 0.0),
    (0.0, 2.0, -0.5),
    (0.0, 0.0, -0.75),
    (0.4, 1.0, 0.5),
    (1.0, 3.0, -0.3),
]


class Apg:
    """Algorithm 1, on x0 predictions (B, ...)."""

    def __init__(self, scale: float, eta: float, norm_threshold: float, momentum: float):
        self.scale, self.eta, self.norm_threshold, self.momentum = scale, eta, norm_threshold, momentum
        self.average: Tensor | float = 0.0

    def __call__(self, cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
        dims = tuple(range(1, cond.ndim))
        difference = cond - uncond
        self.average = difference + self.momentum * self.average
        update = self.average
        if self.norm_threshold > 0:
            norm = update.norm(p=2, dim=dims, keepdim=True)
            update = update * torch.minimum(torch.ones_like(norm), self.norm_threshold / norm)
        direction = cond / cond.norm(p=2, dim=dims, keepdim=True)
        parallel = (update * direction).sum(dims, keepdim=True) * direction
        guided = cond + (self.scale - 1) * (update - parallel + self.eta * parallel)
        return guided, guided


def assert_guided_equals(family: Family, pipe: Any, settings: tuple[float, float, float], loop: Any) -> None:
    """The pipeline under the rule gives what the loop gives, and the setting is not idle."""
    eta, norm_threshold, momentum = settings
    expected = loop(Apg(5.0, eta, norm_threshold, momentum))
    assert (expected - loop(Apg(5.0, 1.0, 0.0, 0.0))).abs().max() > 0.01
    rule = AdaptiveProjectedGuidance(5.0, eta=eta, norm_threshold=norm_threshold, momentum=momentum)
    with guide(pipe, rule) as guided:
        ours = family.run(guided, prompts=2, steps=STEPS)
    assert (ours - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("solver", ["ddim", "euler"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_stable_diffusion(prediction: str, solver: str, settings: tuple[float, float, float]) -> None:
    family = BY_NAME["sd"]
    pipe = family.build()
    scheduler: DDIMScheduler | EulerDiscreteScheduler = ddim(prediction)
    if solver == "euler":
        scheduler = EulerDiscreteScheduler(**BETAS, prediction_type=prediction)
    pipe.scheduler = scheduler
    assert_guided_equals(family, pipe, settings, lambda apg: sd_loop(pipe, apg, solver, prediction))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_stable_diffusion_3(settings: tuple[float, float, float]) -> None:
    family = BY_NAME["sd3"]
    pipe = family.build()
    assert_guided_equals(family, pipe, settings, lambda apg: sd3_loop(pipe, apg))
