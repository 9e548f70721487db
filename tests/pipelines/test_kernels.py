"""The Gaussian of the next noise level, against where each scheduler really goes.

A model that knows x0 keeps any sampler on the forward process: what the scheduler hands on, as the next model input,
has to be a x0 + s noise, with noise that is new or the old one. a and s are measured on many pixels.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import EDMEulerScheduler, FlowMatchLCMScheduler, LCMScheduler, PNDMScheduler, SCMScheduler, TCDScheduler
from tiny import BETAS
from tiny_schedulers import DIFFUSION, FLOW
from torch import Tensor

from diffguide.guidance import Step
from diffguide.pipelines.parametrization import describe_step, restated

SHAPE = (1, 4, 128, 128)
MADE: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: DIFFUSION[name]("epsilon") for name in DIFFUSION},
    **{f"flow {name}": FLOW[name] for name in FLOW},
    "lcm": lambda: LCMScheduler(**BETAS),
    "tcd": lambda: TCDScheduler(**BETAS),
    "flow lcm": lambda: FlowMatchLCMScheduler(shift=3.0),
    "edm": EDMEulerScheduler,
}


def level(step: Step, scheduler: Any) -> tuple[float, float]:
    """Signal and noise of the model input."""
    sigma = float(step.sigma)
    if step.prediction == "flow":
        return 1 - sigma, sigma
    scale = 1 / math.sqrt(sigma**2 + (0.25 if hasattr(scheduler, "precondition_inputs") else 1))
    return scale, scale * sigma


def walk(scheduler: Any, steps: int = 5) -> Iterator[tuple[Step, float, float]]:
    """At each evaluation our Step, and the signal and the noise in what the scheduler hands on."""
    random = torch.Generator().manual_seed(0)
    scheduler.set_timesteps(steps)
    x0 = torch.randn(SHAPE, generator=random).sign()
    noise = torch.randn(SHAPE, generator=random)
    noise = (noise - (noise * x0).mean() * x0) / noise.std()
    scale = getattr(scheduler, "scale_model_input", lambda sample, t: sample)
    a, s = level(describe_step(scheduler, scheduler.timesteps[0], 0, steps, {}), scheduler)
    x: Tensor = (a * x0 + s * noise) / scale(torch.ones(1), scheduler.timesteps[0])
    for index, t in enumerate(scheduler.timesteps):
        step = describe_step(scheduler, t, index, len(scheduler.timesteps), {})
        p, q = step.denoised
        x = (
            scheduler.step((x0 - p * scale(x, t)) / q, t, x, generator=random).prev_sample
            if takes_generator(scheduler)
            else scheduler.step((x0 - p * scale(x, t)) / q, t, x).prev_sample
        )
        last = index + 1 == len(scheduler.timesteps)
        handed = x if last else scale(x, scheduler.timesteps[index + 1])
        signal = (handed * x0).mean()
        yield step, float(signal), float((handed - signal * x0).std())


def takes_generator(scheduler: Any) -> bool:
    return "generator" in scheduler.step.__code__.co_varnames


@pytest.mark.parametrize("name", MADE)
def test_the_next_level_is_where_the_scheduler_goes(name: str) -> None:
    *before, last = walk(MADE[name]())
    for step, signal, noise in before:
        a, s = step.kernel
        assert (a, s) == (pytest.approx(signal, abs=8e-3), pytest.approx(noise, abs=8e-3))
        assert isinstance(a, float)
    assert last[0].kernel[1] == 0
    assert last[2] < 0.04  # some go to the first training timestep rather than to no noise at all


def test_trigflow_in_the_models_own_parametrisation() -> None:
    """Sana-Sprint's z is (cos x0 + sin eps) / (cos + sin), and its model predicts eps - x0."""
    scheduler = SCMScheduler()
    scheduler.set_timesteps(3, intermediate_timesteps=None)
    for index, angle in enumerate(scheduler.timesteps[:-1].double()):
        step = describe_step(scheduler, scheduler.timesteps[index], index, 3, {})
        later = scheduler.timesteps[index + 1].double()
        both = [math.cos(later), math.sin(later)]
        assert step.sigma == pytest.approx(math.sin(angle) / (math.cos(angle) + math.sin(angle)), abs=1e-6)
        assert step.kernel == pytest.approx([part / sum(both) for part in both], abs=1e-6)


def test_where_nothing_can_be_said() -> None:
    scheduler = PNDMScheduler(**BETAS)  # with a Runge-Kutta start
    scheduler.set_timesteps(10)
    assert describe_step(scheduler, scheduler.timesteps[0], 0, 10, {}).kernel is None
    assert restated(Step(kernel=(0.6, 0.8)), "other").kernel is None


def test_flow_that_states_noise_over_signal() -> None:
    a, s = restated(Step(sigma=3.0, kernel=(-1.0, 2.0)), "ratio").kernel
    assert (a, s) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
