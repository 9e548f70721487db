"""Denoising loops written by hand, in float64: an oracle that shares nothing with the engine, the rules or the
schedulers' steps. The noise schedule is from the betas, the denoiser is called twice, the update is as published.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from tiny import BETAS
from tiny_family import PROMPTS
from torch import Tensor

STEPS = 5
Rule = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From the conditional and the unconditional x0 to the guided one, and the one whose noise is added back to it."""


def alphas_cumprod() -> Tensor:
    betas = torch.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def sd_text(pipe: Any, prompts: list[str]) -> Tensor:
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    return pipe.text_encoder(ids)[0]


@torch.no_grad()
def sd_loop(pipe: Any, rule: Rule, solver: str, prediction: str, clean: bool = False) -> Tensor:
    """Stable Diffusion, both prompts; x is variance preserving under DDIM and variance exploding under Euler.

    clean: whether DDIM ends without noise, or at the first timestep's, as in Stable Diffusion's configuration.
    """
    text, empty = sd_text(pipe, list(PROMPTS)), sd_text(pipe, [""] * len(PROMPTS))
    x = torch.randn(len(PROMPTS), 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    abar = alphas_cumprod()
    if solver == "ddim":
        timesteps = [float(t) for t in range(1 + 1000 // STEPS * (STEPS - 1), 0, -1000 // STEPS)]
        levels = [abar[int(t)] for t in timesteps] + [abar[0] ** (not clean)]
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
            denoised, source = rule((z - s * c) / alpha, (z - s * u) / alpha)
        else:
            denoised, source = rule(alpha * z - s * c, alpha * z - s * u)
        noise = (z - alpha * source) / s
        if solver == "ddim":
            x = following.sqrt() * denoised + (1 - following).sqrt() * noise
        else:
            x = denoised + ((1 - following) / following).sqrt() * noise
    return x


@torch.no_grad()
def sd3_loop(pipe: Any, rule: Rule) -> Tensor:
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
        denoised, source = rule(x - sigma * c, x - sigma * u)
        x = (1 - following) * denoised + following * (x - (1 - sigma) * source) / sigma
    return x
