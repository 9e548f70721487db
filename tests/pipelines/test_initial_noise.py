"""Initial noise given as latents gives what its seed gives, in whatever layout a pipeline keeps it."""

import functools

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny import FAMILIES, sd

from diffguide.guidance import ClassifierFreeGuidance, ZerothOrderRankSearch
from diffguide.pipelines import guide, load_pipeline, search_noise
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.initial_noise import initial_noise, perturbation_seed

BY_NAME = {family.name: family for family in FAMILIES}


def by_seed_and_by_noise(pipe, shared, seed=6):
    start = initial_noise(pipe, "dog", seed, shared)
    shared = shared | {"output_type": "latent"}
    generator = torch.Generator().manual_seed(seed)
    by_seed = pipe(["dog"], generator=[generator], **shared)[0]
    return start, by_seed, pipe(["dog"], **start.arguments(start.noise[None]), **shared)[0]


@pytest.mark.parametrize("scheduler", [None, "euler", "euler-a", "lcm"])
def test_whatever_the_scheduler_scales_it_by_or_adds_later(scheduler):
    pipe = load_pipeline("emoji-sd", progress_bar=False, device="cpu", scheduler=scheduler)
    start, by_seed, by_noise = by_seed_and_by_noise(pipe, {"num_inference_steps": 3})
    assert start.noise.shape == (32, 8, 8)
    assert start.noise.std() == pytest.approx(1, abs=0.05)
    assert torch.allclose(by_noise, by_seed, atol=1e-3)
    assert "prepare_latents" not in vars(pipe)


@pytest.mark.parametrize("name", ["sdxl", "sd-controlnet", "sd3", "flux", "qwen"])
def test_whatever_the_layout(name):
    family = BY_NAME[name]
    shared = {"num_inference_steps": 2, **family.inputs(1, 1), **family.fixed}
    _, by_seed, by_noise = by_seed_and_by_noise(family.build(), shared)
    assert torch.allclose(by_noise, by_seed, atol=1e-4)


def test_a_rule_and_a_negative_prompt_may_be_there():
    pipe = BY_NAME["sd"].build()
    shared = {"num_inference_steps": 2, "negative_prompt": "worm"}
    alone = initial_noise(pipe, "dog", 6, shared)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        assert torch.equal(initial_noise(guided, "dog", 6, shared).noise, alone.noise)


def test_a_method_that_others_have_put_on_the_pipeline_is_there_again():
    pipe = BY_NAME["sd"].build()
    native = pipe.prepare_latents

    @functools.wraps(native)
    def own(*args, **kwargs):
        return native(*args, **kwargs)

    pipe.prepare_latents = own
    initial_noise(pipe, "dog", 6, {"num_inference_steps": 2})
    assert pipe.prepare_latents is own


def test_perturbations_do_not_repeat_the_noise_of_the_seed():
    def alike(seed):
        change = ZerothOrderRankSearch(start, seed=seed).ask() - start
        return torch.cosine_similarity((change + 0.2 * start).flatten(1), start.flatten()[None]).abs().max()

    start = torch.randn(32, 8, 8, generator=torch.Generator().manual_seed(6))
    assert alike(6) > 0.9
    assert alike(perturbation_seed(6)) < 0.3


def test_a_pipeline_without_latents_is_refused():
    with pytest.raises(UserError, match="StableDiffusionImg2ImgPipeline takes no latents"):
        search_noise(BY_NAME["sd-img2img"].build(), lambda images: images.mean((1, 2, 3)), "dog")


class OtherLatents(StableDiffusionPipeline):
    """Takes latents that it does not begin with."""

    def prepare_latents(self, *args, latents=None, **kwargs):
        return super().prepare_latents(*args[:-1], None)


def test_a_pipeline_that_does_not_begin_with_its_latents_is_refused():
    with pytest.raises(UserError, match="does not take its latents as it makes them"):
        initial_noise(sd(OtherLatents), "dog", 0, {"num_inference_steps": 2})
