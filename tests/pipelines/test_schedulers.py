import inspect
from importlib.util import find_spec

import diffusers
import pytest
import torch
from tiny import ddim

from diffguide.pipelines.errors import UserError
from diffguide.pipelines.schedulers import SCHEDULERS, compatible, is_flow, make_scheduler

FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
NEEDS_SCIPY = [] if find_spec("scipy") else ["lms", "lms-karras"]
DIFFUSION_NAMES = [name for name, row in SCHEDULERS.items() if row.diffusion and name not in NEEDS_SCIPY]
FLOW_NAMES = [name for name, row in SCHEDULERS.items() if row.flow]


@pytest.mark.parametrize("name", DIFFUSION_NAMES)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_noise_schedule_and_prediction_type_are_the_models(name, prediction):
    current = ddim(prediction)
    made = make_scheduler(name, current)
    assert type(made).__name__ == SCHEDULERS[name].class_name
    assert made.config.prediction_type == prediction
    torch.testing.assert_close(made.alphas_cumprod, current.alphas_cumprod)
    assert not made.config.get("clip_sample", False)
    made.set_timesteps(6)
    assert len(made.timesteps) >= 6


@pytest.mark.parametrize("name", DIFFUSION_NAMES)
def test_a_model_whose_prediction_is_known_exactly_is_sampled_to_its_only_image(name):
    """For one training image x0 the ideal noise prediction is (z - a x0) / s: every solver must arrive at x0."""
    current = ddim()
    scheduler = make_scheduler(name, current)
    scheduler.set_timesteps(20)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 4, 4, 4, generator=generator)
    z = torch.randn(1, 4, 4, 4, generator=generator) * scheduler.init_noise_sigma
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": generator} if takes_generator else {}
    for t in scheduler.timesteps:
        a = current.alphas_cumprod[t.long()].sqrt() if not t.is_floating_point() else _interpolated(current, t).sqrt()
        scaled = scheduler.scale_model_input(z, t)
        z = scheduler.step((scaled - a * image) / (1 - a**2).sqrt(), t, z, **extra).prev_sample
    torch.testing.assert_close(z, image, atol=0.15, rtol=0)


def _interpolated(current, t):
    low = current.alphas_cumprod[t.floor().long()]
    high = current.alphas_cumprod[t.ceil().long()]
    sigma = torch.lerp(((1 - low) / low).sqrt(), ((1 - high) / high).sqrt(), t.frac())
    return 1 / (1 + sigma**2)


@pytest.mark.parametrize("name", FLOW_NAMES)
def test_flow_models_keep_their_shift(name):
    made = make_scheduler(name, FLOW)
    assert is_flow(made)
    made.set_timesteps(10)
    again = make_scheduler("flow-euler", made)
    assert again.config.shift == 3.0


@pytest.mark.parametrize("name", FLOW_NAMES)
def test_a_straight_flow_is_followed_to_its_end(name):
    """For one training image the ideal velocity is (z - x0) / sigma, and the path a straight line to x0."""
    scheduler = make_scheduler(name, FLOW)
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 4, 4, 4, generator=generator)
    z = torch.randn(1, 4, 4, 4, generator=generator)
    for t in scheduler.timesteps:
        z = scheduler.step((z - image) / (t / 1000), t, z).prev_sample
    torch.testing.assert_close(z, image, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", [name for name, row in SCHEDULERS.items() if not row.flow])
def test_flow_models_refuse_what_cannot_follow_a_flow(name):
    with pytest.raises(UserError, match=r"a flow-matching model: what works: .*unipc.*flow-euler"):
        make_scheduler(name, FLOW)


@pytest.mark.parametrize("name", [name for name, row in SCHEDULERS.items() if not row.diffusion])
def test_other_models_refuse_flow_schedulers(name):
    with pytest.raises(UserError, match="does not predict a flow: what works: ddim, "):
        make_scheduler(name, ddim())


def test_a_name_means_the_same_whatever_was_there_before():
    karras = make_scheduler("dpm++-karras", ddim())
    assert make_scheduler("dpm++", karras).config.use_karras_sigmas is False
    stochastic = make_scheduler("dpm++-sde", ddim())
    assert make_scheduler("dpm++", stochastic).config.algorithm_type == "dpmsolver++"
    assert make_scheduler("dpm++", make_scheduler("unipc", FLOW)).config.flow_shift == 3.0


@pytest.mark.parametrize("name", ["ddim", "ddpm", "lcm"])
def test_latents_are_not_clipped_where_the_model_says_nothing_about_it(name):
    assert make_scheduler(name, diffusers.EulerDiscreteScheduler()).config.clip_sample is False


def test_the_current_scheduler_is_left_alone():
    current = ddim()
    before = dict(current.config)
    make_scheduler("euler", current)
    assert dict(current.config) == before


def test_nothing_is_logged(caplog):
    for name in DIFFUSION_NAMES:
        make_scheduler(name, ddim())
    for name in FLOW_NAMES:
        make_scheduler(name, FLOW)
    assert not caplog.records


def test_a_model_that_came_with_a_diffusion_solver_for_flows_is_a_flow():
    wan = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    assert is_flow(wan)
    assert make_scheduler("flow-euler", wan).config.shift == 5.0


def test_schedulers_of_another_kind_are_not_exchanged():
    edm = diffusers.EDMEulerScheduler()
    assert compatible(edm) == []
    with pytest.raises(UserError, match="EDMEulerScheduler cannot be exchanged"):
        make_scheduler("ddim", edm)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError, match=r"unknown scheduler 'dpm\+': did you mean 'dpm\+\+'\?"):
        make_scheduler("dpm+", ddim())


@pytest.mark.parametrize("name", NEEDS_SCIPY)
def test_a_scheduler_whose_package_is_missing_names_it(name):
    with pytest.raises(UserError, match=f"scheduler '{name}': .*pip install scipy"):
        make_scheduler(name, ddim())
