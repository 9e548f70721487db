"""The x0 and the noise that rules work with, against what each scheduler itself makes of the same prediction.

The oracle is the scheduler: its `pred_original_sample` or `convert_model_output` where it has one, and for the others
its forward process (`add_noise`), which has to give the model input back from x0 and noise. Each scheduler is driven
through a whole run, second-order evaluations included, by a model that answers with noise.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    PNDMScheduler,
)
from tiny_schedulers import DIFFUSION, FLOW
from torch import Tensor

from diffguide.guidance import Step
from diffguide.pipelines.parametrization import describe_step

SHAPE = (2, 4, 8, 8)


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}


def worked_out(pair: Any, z: Tensor, prediction: Tensor) -> Tensor:
    return pair[0] * z + pair[1] * prediction


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Equal up to 1e-5 of the largest value."""
    assert ours.isfinite().all()
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def evaluations(scheduler: Any, steps: int = 5, begin: int = 0) -> Iterator[tuple[Step, Tensor, Tensor, Any]]:
    """Run the scheduler; at each evaluation: our Step, model input, prediction, and the scheduler's own x0 or None."""
    random = torch.Generator().manual_seed(0)
    scheduler.set_timesteps(steps)
    if begin:
        scheduler.set_begin_index(begin)
    scale = getattr(scheduler, "scale_model_input", lambda sample, t: sample)
    x = torch.randn(SHAPE, generator=random) * getattr(scheduler, "init_noise_sigma", 1.0)
    timesteps = scheduler.timesteps[begin:]
    for index, t in enumerate(timesteps):
        z = scale(x, t)
        prediction = torch.randn(SHAPE, generator=random)
        step = describe_step(scheduler, t, index, len(timesteps), {})
        assert (step.index, step.total, step.timestep) == (index, len(timesteps), t)
        result = scheduler.step(prediction, t, x)
        yield step, z, prediction, own_denoised(scheduler, result, prediction, z, t)
        x = result.prev_sample


def own_denoised(scheduler: Any, result: Any, prediction: Tensor, z: Tensor, t: Tensor) -> Tensor | None:
    """x0 by the scheduler's own word, at the evaluation whose step was just taken."""
    if getattr(result, "pred_original_sample", None) is not None:
        return result.pred_original_sample
    if not hasattr(scheduler, "convert_model_output"):
        return None
    scheduler._step_index -= 1  # the step has moved it on
    converted = scheduler.convert_model_output(prediction, sample=z)
    if "DEIS" in type(scheduler).__name__:  # it converts to the noise
        alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[scheduler.step_index])
        converted = (z - sigma * converted) / alpha
    scheduler._step_index += 1
    return converted


def check(scheduler: Any, begin: int = 0, steps: int = 5) -> None:
    count = 0
    for step, z, prediction, own in evaluations(scheduler, steps, begin):
        denoised = worked_out(step.denoised, z, prediction)
        noise = worked_out(step.noise, z, prediction)
        if own is not None:
            assert_same(denoised, own)
        else:  # these do without; their forward process is the oracle below
            assert isinstance(
                scheduler, (PNDMScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler)
            )
        if step.prediction == "flow":
            assert_same((1 - step.sigma) * denoised + step.sigma * noise, z)
            assert_same(noise - denoised, prediction)
        else:
            alpha = 1 / math.sqrt(1 + float(step.sigma) ** 2)
            assert_same(alpha * denoised + alpha * step.sigma * noise, z)
            if step.prediction == "epsilon":
                assert_same(noise, prediction)
            else:
                assert_same(alpha * noise - alpha * step.sigma * denoised, prediction)
        count += 1
    assert count == len(scheduler.timesteps) - begin


@pytest.mark.parametrize("begin", [0, 2], ids=["whole", "from-step-2"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", DIFFUSION)
def test_diffusion(name: str, prediction: str, begin: int) -> None:
    scheduler = DIFFUSION[name](prediction)
    if begin and not hasattr(scheduler, "set_begin_index"):
        pytest.skip("this scheduler goes by timesteps alone")
    check(scheduler, begin)


def test_start_among_equal_timesteps() -> None:
    """Sigmas after Karras lie so close that two of them share an integer timestep, which then says too little."""
    scheduler = DIFFUSION["unipc-karras"]("epsilon")
    scheduler.set_timesteps(60)
    first = scheduler.timesteps.diff().tolist().index(0)
    assert scheduler.index_for_timestep(scheduler.timesteps[first]) != first
    check(scheduler, begin=first, steps=60)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["pndm", "ddim", "ddpm"])
def test_forward_process_of_schedulers_without_sigmas(name: str, prediction: str) -> None:
    scheduler = DIFFUSION[name](prediction)
    for step, z, output, _ in evaluations(scheduler):
        denoised, noise = worked_out(step.denoised, z, output), worked_out(step.noise, z, output)
        t = torch.tensor([int(step.timestep)])
        assert_same(scheduler.add_noise(denoised, noise, t), z)
        if prediction == "v_prediction" and hasattr(scheduler, "get_velocity"):
            assert_same(scheduler.get_velocity(denoised, noise, t), output)


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc", "euler", "heun"])
def test_sample_prediction(name: str) -> None:
    for step, z, prediction, own in evaluations(DIFFUSION[name]("sample")):
        assert own is not None
        denoised, noise = worked_out(step.denoised, z, prediction), worked_out(step.noise, z, prediction)
        assert_same(denoised, own)
        alpha = 1 / math.sqrt(1 + float(step.sigma) ** 2)
        assert_same(alpha * denoised + alpha * step.sigma * noise, z)


@pytest.mark.parametrize("name", FLOW)
def test_flow(name: str) -> None:
    check(FLOW[name]())


@pytest.mark.parametrize("name", ["flow-euler", "flow-heun"])
def test_flow_forward_process(name: str) -> None:
    scheduler = FLOW[name]()
    for step, z, prediction, _ in evaluations(scheduler):
        denoised, noise = worked_out(step.denoised, z, prediction), worked_out(step.noise, z, prediction)
        sigma = step.timestep / scheduler.config.num_train_timesteps  # a flow's timestep is its sigma
        assert_same(sigma * noise + (1 - sigma) * denoised, z)
