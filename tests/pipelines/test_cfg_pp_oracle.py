"""CFG++ on real pipelines, whose schedulers know nothing of it, against loops in which the solver is changed as in the
paper: x0 guided with lambda, and the noise of the unconditional prediction added back (arXiv 2406.08070, Algorithm 2).
"""

import copy
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from loops import STEPS, sd3_loop, sd_loop
from tiny import BETAS, FAMILIES, sd
from torch import Tensor

from diffguide.guidance import ClassifierFreeGuidance, ClassifierFreeGuidancePlusPlus, Interval, Step
from diffguide.pipelines import guide
from diffguide.pipelines.parametrization import describe_step

BY_NAME = {family.name: family for family in FAMILIES}
LAMBDAS = [0.3, 0.6, 1.0, 2.0]


def changed_solver(scale: float) -> Any:
    def rule(cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
        return uncond + scale * (cond - uncond), uncond

    return rule


def assert_is(expected: Tensor, family: Any, pipe: Any, scale: float) -> None:
    for rule in (ClassifierFreeGuidancePlusPlus(scale, unit=1), ClassifierFreeGuidancePlusPlus(12.5 * scale)):
        with guide(pipe, rule) as guided:
            ours = family.run(guided, prompts=2, steps=STEPS)
        assert (ours - expected).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("scale", LAMBDAS)
@pytest.mark.parametrize("solver", ["ddim", "euler"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_stable_diffusion(prediction: str, solver: str, scale: float) -> None:
    family = BY_NAME["sd"]
    pipe = family.build()
    if solver == "ddim":
        pipe.scheduler = DDIMScheduler(**BETAS, clip_sample=False, steps_offset=1, prediction_type=prediction)
    else:
        pipe.scheduler = EulerDiscreteScheduler(**BETAS, prediction_type=prediction)
    expected = sd_loop(pipe, changed_solver(scale), solver, prediction, clean=True)
    assert_is(expected, family, pipe, scale)
    with guide(pipe, ClassifierFreeGuidance(scale)) as guided:
        assert (family.run(guided, prompts=2, steps=STEPS) - expected).abs().max() > 0.01


@pytest.mark.parametrize("scale", LAMBDAS)
def test_stable_diffusion_3(scale: float) -> None:
    family = BY_NAME["sd3"]
    pipe = family.build()
    assert_is(sd3_loop(pipe, changed_solver(scale)), family, pipe, scale)


DIFFUSION = ["EulerAncestralDiscreteScheduler", "DDPMScheduler", "LCMScheduler", "DDIMScheduler"]
FLOW = ["FlowMatchEulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler stochastic", "FlowMatchLCMScheduler"]


@pytest.mark.parametrize("name", [*DIFFUSION, *FLOW])
def test_whatever_noise_is_drawn_anew_the_rest_is_unconditional(name: str) -> None:
    """Beside a step with the unconditional prediction alone, only x0 moves, by lambda: the noise is that one's."""
    flow, (kind, *stochastic) = "Flow" in name, name.split()
    options = {"shift": 3.0} if flow else BETAS if "Euler" in name else BETAS | {"clip_sample": False}
    scheduler = getattr(diffusers, kind)(**options, **({"stochastic_sampling": True} if stochastic else {}))
    scheduler.set_timesteps(4)
    generator, state = torch.Generator().manual_seed(1), {}
    start = 1.0 if flow else float(scheduler.init_noise_sigma)
    x = start * torch.randn(2, 4, 8, 8, generator=generator).double()
    for index, t in enumerate(scheduler.timesteps):
        cond, uncond = torch.randn(2, 2, 4, 8, 8, generator=generator).double()
        z = x if flow else scheduler.scale_model_input(x, t)
        here = describe_step(scheduler, t, index, 4, state)
        guided, _ = ClassifierFreeGuidancePlusPlus(0.8, unit=1).guide(cond, uncond, z, here)
        ours, unguided = (
            copy.deepcopy(scheduler).step(prediction, t, x, generator=torch.Generator().manual_seed(index)).prev_sample
            for prediction in (guided, uncond)
        )
        signal = 1.0 if kind == "EulerAncestralDiscreteScheduler" else here.kernel[0]
        moved = signal * here.denoised[1] * 0.8 * (cond - uncond)
        torch.testing.assert_close(ours - unguided, moved, rtol=2e-3, atol=2e-3)
        x = scheduler.step(guided, t, x, generator=torch.Generator().manual_seed(index)).prev_sample


@pytest.mark.parametrize("name", ["PNDMScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_other_solvers_have_finite_scales_of_their_steps(name: str) -> None:
    """Also where a step makes a second evaluation, which has the scale of the first."""
    pipe = sd()
    pipe.scheduler = getattr(diffusers, name)(**BETAS, **({"skip_prk_steps": True} if "PNDM" in name else {}))
    with guide(pipe, ClassifierFreeGuidancePlusPlus(7.5)) as guided:
        assert guided("red apple", num_inference_steps=6, output_type="latent").images.isfinite().all()
        scales = [float(record.effective_scale.mean()) for record in guided.trace]
    assert all(0.6 - 1e-4 <= scale < 20 for scale in scales)
    assert scales[-1] == pytest.approx(0.6, rel=1e-3)
    if name == "PNDMScheduler":
        assert scales[1] == pytest.approx(scales[0], rel=1e-3)
    if name == "HeunDiscreteScheduler":
        assert scales[1:-1:2] == pytest.approx(scales[:-2:2], rel=1e-3)


def test_outside_an_interval_it_is_conditional() -> None:
    with guide(sd(), Interval(ClassifierFreeGuidancePlusPlus(7.5), start=0.5)) as guided:
        guided("red apple", num_inference_steps=4, output_type="latent")
        assert [record.evaluations for record in guided.trace] == [1, 1, 2, 2]


def test_a_tensor_for_a_level_is_the_number_that_it_holds() -> None:
    scheduler = DDIMScheduler(**BETAS, clip_sample=False)
    scheduler.set_timesteps(5)
    cond, uncond, z = torch.randn(3, 2, 4, 8, 8)
    rule = ClassifierFreeGuidancePlusPlus(7.5)
    for index, t in enumerate(scheduler.timesteps):
        numbers = describe_step(scheduler, t, index, 5, {})
        tensors = Step(index, 5, prediction="epsilon")
        for name in ("denoised", "noise", "kernel"):
            setattr(tensors, name, tuple(torch.tensor(float(value)) for value in getattr(numbers, name)))
        expected, _ = rule.guide(cond, uncond, z, numbers)
        torch.testing.assert_close(rule.guide(cond, uncond, z, tensors)[0], expected, rtol=1e-4, atol=1e-4)
