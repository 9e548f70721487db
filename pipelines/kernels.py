"""Where a scheduler goes from here: signal and noise at the next noise level, in the training parametrisation.

    diffusion    (sqrt(abar'), sqrt(1 - abar'))        flow matching    (1 - sigma', sigma')

The step's Gaussian, given x0, is that of the forward process there. A deterministic sampler takes its mean and the
noise that it has already; a consistency sampler draws from it. (LCMScheduler puts c_out x0 + c_skip z in the place of
x0, with c_skip < 3e-4 and c_out < 1 from timestep 3 on: it takes over a move of x0 nearly, and never more than, whole.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diffguide.guidance.basis import Scalar

from .levels import Levels, integer

Pair = tuple[Scalar, Scalar]

CLEAN: Pair = (1.0, 0.0)

NEW_NOISE = {
    "EulerAncestralDiscreteScheduler": 2.0,
    "DDPMScheduler": 2.0,
    "DDPMWuerstchenScheduler": 2.0,
    "LCMScheduler": math.inf,
    "FlowMatchLCMScheduler": math.inf,
}
"""`Step.renewal` under schedulers whose steps draw noise anew."""


def renewal(scheduler: Any) -> float:
    """Of the noise in a step: `Step.renewal`."""
    if scheduler.config.get("stochastic_sampling"):  # of FlowMatchEulerDiscreteScheduler
        return math.inf
    return NEW_NOISE.get(type(scheduler).__name__, 1.0)


def kernel(scheduler: Any, timestep: Any, prediction: str, index: int | None, levels: Levels) -> Pair | None:
    """(a, s) of N(a x0, s^2 I); s is 0 at the last step. None for a scheduler that says too little. No device sync.

    timestep: that of the evaluation. index: its place in `scheduler.sigmas`, None where there are none. levels: what
    was read of the scheduler's tables in this call.
    """
    name = type(scheduler).__name__
    if name == "DDPMWuerstchenScheduler":
        later = _next(scheduler.timesteps, timestep, 0.0)
        return _variance_preserving(scheduler._alpha_cumprod(later, timestep.device), later > 0)
    if name == "SCMScheduler":
        sigma = share_of_angle(_next(scheduler.timesteps, timestep, 0.0))
        return 1 - sigma, sigma
    if index is not None:
        level = _next_sigma(scheduler, index, levels)
        if level is None:
            return CLEAN
        if prediction == "flow":
            return (level, 1 - level) if scheduler.config.get("invert_sigmas") else (1 - level, level)
        if hasattr(type(scheduler), "precondition_inputs"):
            level = torch.as_tensor(level)
            scale = scheduler.precondition_inputs(level.new_ones(()), level)
            return scale, scale * level
        alpha = (level * level + 1) ** -0.5
        return alpha, level * alpha
    if prediction in ("flow", "unknown") or not hasattr(scheduler, "alphas_cumprod"):
        return None
    place = _next_timestep(scheduler, integer(timestep))
    if place is None:
        return None
    first = place.clamp(min=0) if isinstance(place, Tensor) else max(place, 0)
    return _variance_preserving(levels.at(scheduler.alphas_cumprod, first), place >= 0)


def share_of_angle(angle: Tensor) -> Tensor:
    """The share of noise of TrigFlow's z = cos(angle) x0 + sin(angle) eps, once its coefficients add up to 1."""
    return angle.sin() / (angle.cos() + angle.sin())


def _variance_preserving(signal: Scalar, noisy: Tensor | bool) -> Pair:
    if isinstance(noisy, Tensor):
        signal = torch.where(noisy, signal, 1.0)
    elif not noisy:
        return CLEAN
    return signal**0.5, (1 - signal) ** 0.5


def _next_sigma(scheduler: Any, index: int, levels: Levels) -> Scalar | None:
    """The sigma that the step from evaluation `index` ends at; None at the last."""
    sigmas = scheduler.sigmas
    if index + 2 >= len(sigmas):  # whatever little noise the scheduler's table ends with
        return None
    if type(scheduler).__name__ == "DPMSolverSDEScheduler" and scheduler.state_in_first_order:
        return between(scheduler, index, levels)
    if type(scheduler).__name__.startswith("KDPM2") and scheduler.state_in_first_order:
        ancestral = "Ancestral" in type(scheduler).__name__  # each of the two has its midpoints in another place
        return levels.at(scheduler.sigmas_interpol, index if ancestral else index + 1)
    return levels.at(sigmas, index + 1)


def between(scheduler: Any, index: int, levels: Levels) -> Scalar:
    """The sigma in the middle of the step from evaluation `index`, where a DPMSolverSDEScheduler makes another."""
    return (levels.at(scheduler.sigmas, index) * levels.at(scheduler.sigmas, index + 1)) ** 0.5


def _next_timestep(scheduler: Any, timestep: int | Tensor) -> int | Tensor | None:
    """The timestep that the step ends at, for schedulers that go by timesteps alone; below 0 at the last."""
    name, config = type(scheduler).__name__, scheduler.config
    if name == "PNDMScheduler":
        if not config.skip_prk_steps:
            return None
        if scheduler.counter == 1:  # the second evaluation of its first step, made where that step ends
            return timestep
    if name == "PNDMScheduler" or "DDIM" in name or name == "CogVideoXDPMScheduler":
        return timestep - config.num_train_timesteps // scheduler.num_inference_steps
    return integer(_next(scheduler.timesteps, timestep, -1))


def _next(timesteps: Tensor, timestep: int | Tensor, end: float) -> Tensor:
    """The largest of the timesteps below this one, `end` if there is none."""
    timestep = timestep.to(timesteps.device) if isinstance(timestep, Tensor) else timestep
    return torch.where(timesteps < timestep, timesteps, end).amax()
