"""How a guided pipeline may be called: as the pipeline itself, with guidance turned on for the caller."""

import gc
import weakref
from typing import Any

import pytest
import tiny_parts as parts
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import AutoPipelineForImage2Image, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from tiny import FAMILIES, sd
from tiny_family import PROMPTS, seeded
from torch import Tensor

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide
from diffguide.pipelines.initial_noise import initial_noise

BY_NAME = {family.name: family for family in FAMILIES}
TWO_CALLS = ["flux", "qwen"]


@pytest.mark.parametrize("name", ["sd", "flux", "qwen", "wan21"])
def test_handle_and_pipeline_are_the_same_call(name: str) -> None:
    family = BY_NAME[name]
    pipe = family.build()
    with guide(pipe, AdaptiveProjectedGuidance(5.0)) as guided:
        assert torch.equal(family.run(guided), family.run(pipe))


def test_arguments_by_position() -> None:
    family = BY_NAME["sd"]
    pipe = family.build()
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        expected = family.run(guided)
        options = {"output_type": "latent", "generator": torch.Generator().manual_seed(0)}
        assert torch.equal(guided(PROMPTS[0], None, None, 4, **options).images, expected)
        with pytest.raises(TypeError, match="arguments"):
            guided(*range(100))


@pytest.mark.parametrize("name", TWO_CALLS)
def test_prompt_as_a_string(name: str) -> None:
    family = BY_NAME[name]
    pipe = family.build()
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        assert torch.equal(family.run(guided, prompt=PROMPTS[0]), family.run(guided))


@pytest.mark.parametrize("name", TWO_CALLS)
def test_prompt_as_embeddings(name: str) -> None:
    """The negative prompt that turns true guidance on is made for them."""
    family = BY_NAME[name]
    pipe = family.build()
    options = {"prompt_2": None, "max_sequence_length": 16} if name == "flux" else {}
    with torch.no_grad():
        embeds, other, *_ = pipe.encode_prompt(list(PROMPTS), **options)
    companion = "pooled_prompt_embeds" if name == "flux" else "prompt_embeds_mask"
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        expected = family.run(guided, prompts=2)
        ours = family.run(guided, 2, prompt=None, prompt_embeds=embeds, **{companion: other})
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_negative_prompt_of_the_caller_counts() -> None:
    for name in ["sd", *TWO_CALLS, "wan21"]:
        family = BY_NAME[name]
        pipe = family.build()
        native = family.run(pipe, **{family.scale: 5.0, "negative_prompt": ["blue"]})
        with guide(pipe, family.native(5.0)) as guided:
            ours = family.run(guided, negative_prompt=["blue"])
            other = family.run(guided)
        torch.testing.assert_close(ours, native, rtol=0, atol=1e-6)
        assert (ours - other).abs().max() > 1e-4


def test_scale_of_the_pipeline_is_mentioned_once() -> None:
    family = BY_NAME["sd"]
    pipe = family.build()
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        with pytest.warns(UserWarning, match="guidance_scale=9 is not used") as caught:
            family.run(guided, guidance_scale=9)
        assert caught[0].filename.endswith("tiny_family.py")  # the line that called
        family.run(guided, guidance_scale=9)
        family.run(guided, guidance_scale=5.0)


def test_second_scale_of_wan_is_mentioned() -> None:
    family = BY_NAME["wan22"]
    pipe = family.build()
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        expected = family.run(guided)
        with pytest.warns(UserWarning, match="guidance_scale_2=3.0 is not used"):
            assert torch.equal(family.run(guided, guidance_scale_2=3.0), expected)


def test_rescale_of_the_pipeline_belongs_to_the_rule() -> None:
    family = BY_NAME["sd"]
    pipe = family.build()
    native = family.run_native(pipe, 5.0, guidance_rescale=0.7)
    with guide(pipe, ClassifierFreeGuidance(5.0, guidance_rescale=0.7)) as guided:
        torch.testing.assert_close(family.run(guided), native, rtol=0, atol=1e-5)
        guided.guidance = ClassifierFreeGuidance(5.0)
        plain = family.run(guided)
        with pytest.warns(UserWarning, match="guidance_rescale"):
            torch.testing.assert_close(family.run(guided, guidance_rescale=0.7), plain, rtol=0, atol=1e-5)
    assert (plain - native).abs().max() > 1e-2


def test_swapping_the_rule_inside_a_call_waits_for_the_next() -> None:
    family = BY_NAME["sd"]
    pipe = family.build()
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        expected = family.run(guided)

        def swap(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            guided.guidance = AdaptiveProjectedGuidance(5.0)
            return tensors

        assert torch.equal(family.run(guided, callback_on_step_end=swap), expected)
        assert not torch.equal(family.run(guided), expected)


@pytest.mark.parametrize("name", ["sd", "flux", "wan22"])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_beside_hooks_of_accelerate(name: str, scale: float) -> None:
    """Offloading replaces the denoiser's forward; it is still there afterwards, and the result is the same."""
    family = BY_NAME[name]
    pipe = family.build()
    native = family.run_native(pipe, scale)
    modules = family.modules(pipe)
    for module in modules:
        add_hook_to_module(module, ModelHook())
    forwards = [module.forward for module in modules]
    with guide(pipe, ClassifierFreeGuidance(scale)) as guided:
        torch.testing.assert_close(family.run(guided), native, rtol=0, atol=1e-6)
    assert [module.forward for module in modules] == forwards
    for module in modules:
        remove_hook_from_module(module)
    assert torch.equal(family.run_native(pipe, scale), native)


def test_pipelines_made_from_a_guided_one_are_not_guided() -> None:
    family, other = BY_NAME["sd"], BY_NAME["sd-img2img"]
    pipe = seeded(lambda: sd(vae=parts.kl_vae()))
    with guide(pipe, AdaptiveProjectedGuidance(5.0)) as guided:
        made = [StableDiffusionImg2ImgPipeline.from_pipe(pipe), AutoPipelineForImage2Image.from_pipe(pipe)]
        for one in made:
            one.set_progress_bar_config(disable=True)
        family.run(guided)
        results = [other.run_native(one, 5.0) for one in made]
    for one, result in zip(made, results):
        assert type(one) is StableDiffusionImg2ImgPipeline
        assert torch.equal(other.run_native(one, 5.0), result)


def test_a_removed_rule_is_not_called_and_leaves_the_next_one_alone() -> None:
    pipe = BY_NAME["sd"].build()
    removed = guide(pipe, ClassifierFreeGuidance(5.0))
    removed.remove()
    with pytest.raises(ValueError, match="was removed"):
        removed(PROMPTS[0])
    with pytest.raises(ValueError, match="was removed"), removed:  # in which the pipeline would run without the rule
        pass
    following = guide(pipe, ClassifierFreeGuidance(5.0))
    removed.remove()
    BY_NAME["sd"].run(following)
    assert following.trace


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_embeddings_without_a_text_encoder_need_those_of_the_negative_prompt(name: str) -> None:
    """As where it was removed once it had embedded the prompt."""
    family = BY_NAME[name]
    pipe = family.build()
    first, second, *_ = pipe.encode_prompt("red apple", *["red apple"] * (name == "flux"), max_sequence_length=16)
    texts = {"prompt_embeds": first, ("pooled_prompt_embeds" if name == "flux" else "prompt_embeds_mask"): second}
    for part in [part for part in pipe.components if part.startswith(("text_encoder", "tokenizer"))]:
        setattr(pipe, part, None)
    size = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent"}
    with guide(pipe, AdaptiveProjectedGuidance(5.0)) as guided:
        with pytest.raises(ValueError, match="Pipeline has no text encoder: give negative_prompt_embeds"):
            guided(**texts, **size)
        assert guided(**texts, **size, **{f"negative_{key}": its for key, its in texts.items()}).images.isfinite().all()


def test_a_cutoff_callback_ends_guidance_as_it_does_without_a_rule() -> None:
    def cutoff(pipe: Any, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if index == 1:
            pipe._guidance_scale = 0.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[1]
        return tensors

    family = BY_NAME["sd"]
    options = {"callback_on_step_end": cutoff, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    pipe = family.build()
    native = family.run(pipe, guidance_scale=5.0, **options)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        assert torch.equal(family.run(guided, **options), native)
    assert [record.evaluations for record in guided.trace] == [2, 2, 1, 1]


class Handing(StableDiffusionPipeline):
    """A user's own class, which hands on what it is given."""

    def __call__(self, *args: Any, loud: bool = False, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class Moded(StableDiffusionPipeline):
    def __call__(self, mode: str, *args: Any, **kwargs: Any) -> Any:
        assert mode == "fast"
        return super().__call__(*args, **kwargs)


class Stepping(ClassifierFreeGuidance):
    def after_step(self, latents: Tensor, step: Any) -> Tensor:
        return latents


def test_a_class_that_hands_its_arguments_on() -> None:
    family = BY_NAME["sd"]
    pipe = Handing(**family.build().components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    options = {"output_type": "latent", "num_inference_steps": 3}

    def run(call: Any, *args: Any, **more: Any) -> Tensor:
        return call(*args, **options, **more, generator=torch.Generator().manual_seed(0)).images

    native = run(pipe, PROMPTS[0], guidance_scale=5.0)
    for rule in (ClassifierFreeGuidance(5.0), Stepping(5.0)):
        with guide(pipe, rule) as guided:
            assert torch.equal(run(guided, PROMPTS[0]), native)
            assert torch.equal(run(pipe, PROMPTS[0], loud=True), native)
            assert torch.equal(run(guided, prompt=PROMPTS[0]), native)
    assert initial_noise(pipe, PROMPTS[0], 0, {"num_inference_steps": 1}).noise.ndim == 3
    pipe = Moded(**pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        assert torch.equal(run(guided, "fast", PROMPTS[0]), native)


@pytest.mark.parametrize("name", ["sd", "wan21"])
def test_nothing_of_a_call_waits_for_the_collector(name: str) -> None:
    """Which knows nothing of a GPU's memory."""
    family, calls = BY_NAME[name], []

    class Watched(AdaptiveProjectedGuidance):
        def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Any) -> Any:
            calls.append(weakref.ref(cond))
            return super().guide(cond, uncond, latents, step)

    pipe = family.build()
    gc.collect()
    gc.disable()
    try:
        with guide(pipe, Watched(5.0)) as guided:
            family.run(guided, steps=3)
        assert calls
        assert all(tensor() is None for tensor in calls)
    finally:
        gc.enable()


def test_the_handle_is_found_on_the_pipeline_until_it_is_removed() -> None:
    pipe = sd()
    guide(pipe, ClassifierFreeGuidance(5.0))  # by someone who kept nothing
    with pytest.raises(ValueError, match=r"`pipe\.diffguide\.remove\(\)`"):
        guide(pipe, ClassifierFreeGuidance(3.0))
    twin = type(pipe)(**pipe.components)  # of the same class, without a rule
    with guide(twin, ClassifierFreeGuidance(3.0)) as other:
        assert twin.diffguide is other
    assert type(twin) is StableDiffusionPipeline
    pipe.diffguide.remove()
    assert type(pipe) is StableDiffusionPipeline
    assert not hasattr(pipe, "diffguide")
