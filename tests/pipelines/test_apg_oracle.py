"""APG on real pipelines against a denoising loop written by hand from the paper, in float64.

The loop shares nothing with the engine, the rule or the schedulers' steps: the noise schedule from the betas, two
separate calls of the denoiser, Algorithm 1 of arXiv 2410.02416 in x0 space, and the DDIM or Euler update as published.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from tiny import BETAS, FAMILIES, ddim
from tiny_family import PROMPTS, Family
from torch import Tensor

from diffguide.guidance import AdaptiveProjectedGuidance
from diffguide.pipelines import guide

BY_NAME = {family.name: family for family in FAMILIES}
STEPS = 5
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

    def __call__(self, cond: Tensor, uncond: Tensor) -> Tensor:
        dims = tuple(range(1, cond.ndim))
        difference = cond - uncond
        self.average = difference + self.momentum * self.average
        update = self.average
        if self.norm_threshold > 0:
            norm = update.norm(p=2, dim=dims, keepdim=True)
            update = update * torch.minimum(torch.ones_like(norm), self.norm_threshold / norm)
        direction = cond / cond.norm(p=2, dim=dims, keepdim=True)
        parallel = (update * direction).sum(dims, keepdim=True) * direction
        return cond + (self.scale - 1) * (update - parallel + self.eta * parallel)


def alphas_cumprod() -> Tensor:
    betas = torch.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def sd_text(pipe: Any, prompts: list[str]) -> Tensor:
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    return pipe.text_encoder(ids)[0]


@torch.no_grad()
def sd_loop(pipe: Any, apg: Apg, solver: str, prediction: str) -> Tensor:
    """Stable Diffusion, both prompts; x is variance preserving under DDIM and variance exploding under Euler."""
    text, empty = sd_text(pipe, list(PROMPTS)), sd_text(pipe, [""] * len(PROMPTS))
    x = torch.randn(len(PROMPTS), 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    abar = alphas_cumprod()
    if solver == "ddim":
        timesteps = [float(t) for t in range(1 + 1000 // STEPS * (STEPS - 1), 0, -1000 // STEPS)]
        levels = [abar[int(t)] for t in timesteps] + [abar[0]]
    else:
        timesteps = list(np.linspace(0, 999, STEPS, dtype=np.float32)[::-1])
        sigma = np.interp(timesteps, np.arange(1000), ((1 - abar) / abar).sqrt().numpy())
        levels = [1 / (1 + torch.tensor(s) ** 2) for s in [*sigma, 0.0]]
        x = x * float(sigma[0])
    for t, level, following in zip(timesteps, levels, levels[1:]):
        alpha, s = level.sqrt(), (1 - level).sqrt()
        z = x if solver == "ddim" else x * alpha
        c, u = (pipe.unet(z.float(), torch.tensor(t), encoder_hidden_states=e)[0].double() for e in (text, empty))
        if prediction == "epsilon":
            denoised = apg((z - s * c) / alpha, (z - s * u) / alpha)
        else:
            denoised = apg(alpha * z - s * c, alpha * z - s * u)
        noise = (z - alpha * denoised) / s
        if solver == "ddim":
            x = following.sqrt() * denoised + (1 - following).sqrt() * noise
        else:
            x = denoised + ((1 - following) / following).sqrt() * noise
    return x


@torch.no_grad()
def sd3_loop(pipe: Any, apg: Apg) -> Tensor:
    """Stable Diffusion 3 with Euler steps along the flow, shift 3."""
    text, empty, pooled, no_pooled = pipe.encode_prompt(list(PROMPTS), None, None)
    x = torch.randn(len(PROMPTS), 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    low = 3 * 0.001 / (1 + 2 * 0.001)  # the shifted sigma of the last training step
    grid = torch.linspace(1, low, STEPS, dtype=torch.float64)
    sigmas = [*(3 * grid / (1 + 2 * grid)), torch.tensor(0.0)]
    for sigma, following in pairwise(sigmas):
        t = (1000 * sigma).float().expand(len(x))
        c, u = (
            pipe.transformer(x.float(), encoder_hidden_states=e, pooled_projections=p, timestep=t)[0].double()
            for e, p in ((text, pooled), (empty, no_pooled))
        )
        denoised = apg(x - sigma * c, x - sigma * u)
        x = denoised + following * (x - denoised) / sigma
    return x


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
