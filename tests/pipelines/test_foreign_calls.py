"""Classes of one's own that derive from known ones, or have the name of one: their call may do something else."""

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_output import StableDiffusionPipelineOutput
from tiny import sd
from tiny_family import seeded

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance, Interval
from diffguide.pipelines import guide
from diffguide.pipelines.errors import UserError


class ConditionalFirst(StableDiffusionPipeline):
    """Has the halves of its batch the other way round."""

    @torch.no_grad()
    def __call__(self, prompt: str, num_inference_steps: int = 4, guidance_scale: float = 7.5) -> Any:
        texts = torch.cat([*self.encode_prompt(prompt, "cpu", 1, True, "")])
        self.scheduler.set_timesteps(num_inference_steps)
        z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        for t in self.scheduler.timesteps:
            cond, uncond = self.unet(torch.cat([z, z]), t, encoder_hidden_states=texts).sample.chunk(2)
            z = self.scheduler.step(uncond + guidance_scale * (cond - uncond), t, z).prev_sample
        return StableDiffusionPipelineOutput(z, None)


class Composed(ConditionalFirst):
    """One prediction without a prompt, and one for each of several prompts."""

    @torch.no_grad()
    def __call__(self, prompt: str, num_inference_steps: int = 4, guidance_scale: float = 7.5) -> Any:
        texts, none = self.encode_prompt(prompt.split("|"), "cpu", 1, True, [""] * len(prompt.split("|")))
        texts = torch.cat([none[:1], texts])
        self.scheduler.set_timesteps(num_inference_steps)
        z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        for t in self.scheduler.timesteps:
            uncond, *conds = self.unet(torch.cat([z] * len(texts)), t, encoder_hidden_states=texts).sample.split(1)
            z = self.scheduler.step(uncond + guidance_scale * sum(c - uncond for c in conds), t, z).prev_sample
        return StableDiffusionPipelineOutput(z, None)


class Named(StableDiffusionPipeline):
    """Hands its call on."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs, output_type="latent")


class Scaleless(StableDiffusionPipeline):
    """Takes no scale."""

    def __call__(self, prompt: str) -> Any:
        return super().__call__(prompt, guidance_scale=5.0)


def images(pipe: Any, prompt: str = "a", **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    options |= {"generator": generator, "height": 16, "width": 16} if "generator" in options else {}
    return pipe(prompt, num_inference_steps=4, **options).images


@pytest.mark.parametrize("name", ["ConditionalFirst", "StableDiffusionPipeline"])
def test_what_a_class_does_itself_is_seen_on_its_first_call(name: str) -> None:
    pipe = seeded(lambda: sd(ConditionalFirst))
    pipe.__class__ = type(name, (ConditionalFirst,), {})
    native, off = images(pipe, guidance_scale=5.0), images(pipe, guidance_scale=1.0)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        torch.testing.assert_close(images(guided), native)
        assert guided.layout.calls == "cond-first"
        guided.guidance = ClassifierFreeGuidance(1.0)
        torch.testing.assert_close(images(guided), off)
        guided.guidance = AdaptiveProjectedGuidance(5.0)
        assert (images(guided) - native).abs().max() > 1e-3


def test_what_two_predictions_do_not_explain_is_refused() -> None:
    pipe = seeded(lambda: sd(Composed))
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        with pytest.raises(UserError, match=r"unet with 4 rows.* is not a conditional and an unconditional prediction"):
            images(guided, "a|b|c")
        torch.testing.assert_close(images(guided), images(guided.pipe, guidance_scale=5.0))
        assert guided.layout.calls == "uncond-first"  # as its base class has it
        assert not guided.layout.whole
        with pytest.raises(UserError, match=r"made no unconditional prediction.*; 3 rows are no two halves"):
            images(guided, "a|b")


def test_a_call_that_is_handed_on_is_that_of_the_base_class() -> None:
    pipe = seeded(lambda: sd(Named))
    native = images(pipe, guidance_scale=5.0, generator=None)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        assert guided.layout.foreign
        torch.testing.assert_close(images(guided, generator=None), native)
        assert not guided.layout.foreign
        guided.guidance = Interval(ClassifierFreeGuidance(5.0), stop=0.5)
        images(guided, generator=None)
        assert guided.trace.evaluations == 6


def test_a_call_without_a_scale() -> None:
    with pytest.raises(UserError, match="its call takes no guidance_scale"):
        guide(seeded(lambda: sd(Scaleless)), ClassifierFreeGuidance(5.0))
