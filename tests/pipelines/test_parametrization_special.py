"""Schedulers whose denoised space is special: zero terminal SNR, EDM, other predictions, continuous timesteps."""

import math

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
)
from test_parametrization import SHAPE, ZERO_SNR, assert_same, check, evaluations, worked_out
from tiny import BETAS, FAMILIES

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide
from diffguide.pipelines.parametrization import describe_step


def test_zero_terminal_snr_with_v() -> None:
    scheduler = DDIMScheduler(**BETAS, **ZERO_SNR, prediction_type="v_prediction")
    steps = list(evaluations(scheduler))
    assert float(steps[0][0].sigma) == math.inf
    for step, z, prediction, own in steps:
        assert_same(worked_out(step.denoised, z, prediction), own)
    assert_same(worked_out(steps[0][0].denoised, *steps[0][1:3]), -steps[0][2])


def test_zero_terminal_snr_with_epsilon_has_no_denoised() -> None:
    scheduler = DDIMScheduler(**BETAS, **ZERO_SNR)
    scheduler.set_timesteps(4)
    assert describe_step(scheduler, scheduler.timesteps[0], 0, 4, {}).denoised is None

    family = FAMILIES[0]
    pipe = family.build()
    pipe.scheduler = scheduler
    with (
        guide(pipe, AdaptiveProjectedGuidance(5.0)) as guided,
        pytest.raises(ValueError, match="denoised space") as caught,
    ):
        family.run(guided)
    assert "\n" not in str(caught.value)
    assert "ClassifierFree" not in str(caught.value)


def test_apg_runs_at_zero_terminal_snr_with_v() -> None:
    family = FAMILIES[0]
    pipe = family.build()
    pipe.scheduler = DDIMScheduler(**BETAS, **ZERO_SNR, prediction_type="v_prediction")
    with guide(pipe, AdaptiveProjectedGuidance(5.0)) as guided:
        assert family.run(guided).isfinite().all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("cls", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
def test_edm(cls: type, prediction: str) -> None:
    """Their own preconditioning of the sample, where we have no more than the model input that was made of it."""
    random = torch.Generator().manual_seed(0)
    scheduler = cls(prediction_type=prediction)
    scheduler.set_timesteps(4)
    x = torch.randn(SHAPE, generator=random) * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps):
        z, output = scheduler.scale_model_input(x, t), torch.randn(SHAPE, generator=random)
        step = describe_step(scheduler, t, index, 4, {})
        sigma = scheduler.sigmas[scheduler.step_index]
        denoised, noise = worked_out(step.denoised, z, output), worked_out(step.noise, z, output)
        assert_same(denoised, scheduler.precondition_outputs(x, output, sigma))
        assert_same(denoised + sigma * noise, x)
        x = scheduler.step(output, t, x).prev_sample


def test_other_parametrisations_have_only_the_prediction() -> None:
    """Neither formula holds for a consistency model."""
    scheduler = CMStochasticIterativeScheduler()
    scheduler.set_timesteps(4)
    step = describe_step(scheduler, scheduler.timesteps[0], 0, 4, {})
    assert step.denoised is None
    assert step.noise is None
    assert step.to_space("prediction") == (0.0, 1.0)


def test_continuous_timesteps() -> None:
    """Stable Video Diffusion's timestep is a quarter of log sigma; only the sigma itself leads to x0."""
    check(
        EulerDiscreteScheduler(
            **BETAS, prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True
        )
    )


def test_nothing_is_needed_of_the_scheduler_for_prediction_space() -> None:
    family = FAMILIES[0]
    pipe = family.build()
    pipe.scheduler = DDIMScheduler(**BETAS, **ZERO_SNR, prediction_type="v_prediction")
    native = family.run_native(pipe, 5.0)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        torch.testing.assert_close(family.run(guided), native, rtol=0, atol=1e-6)
