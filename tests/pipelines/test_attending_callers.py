"""What callers do beside a rule inside of attention: adapters, cutoffs, several images, functions of their own."""

import gc
import weakref
from typing import Any

import pytest
import torch
from attending import ALL_NEGATIVE, ALL_POSITIVE, FAMILIES, RULE, close, quiet  # noqa: F401
from diffusers.callbacks import SD3CFGCutoffCallback
from test_ecosystem_adapters import ip_adapter
from torch import Tensor

from diffguide.guidance import ClassifierFreeGuidance, Guidance, Interval, NormalizedAttentionGuidance, Step
from diffguide.pipelines import guide
from diffguide.pipelines.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # of deprecated pipelines, as in test_families


@pytest.mark.parametrize(("name", "images"), [("qwen", 2), ("qwen", 3), ("qwen-edit", 2), ("qwen-edit", 3), ("sd3", 3)])
def test_several_images_of_one_prompt(name: str, images: int) -> None:
    family, pipe = FAMILIES[name], FAMILIES[name].build()
    with guide(pipe, ALL_POSITIVE) as guided:
        positive = family.run(guided, images=images)
        guided.guidance = ClassifierFreeGuidance(1.0)
        close(positive, family.run(guided, images=images))


def test_an_ip_adapter_of_a_unet() -> None:
    family, pipe = FAMILIES["sd"], FAMILIES["sd"].build()
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)], low_cpu_mem_usage=False)
    image = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(1))
    with guide(pipe, ALL_NEGATIVE) as guided:
        negative = family.run(guided, ip_adapter_image_embeds=[image.repeat(2, 1, 1)])
        guided.guidance = ClassifierFreeGuidance(0.0)
        close(negative, family.run(guided, ip_adapter_image_embeds=[image.repeat(2, 1, 1)]))


def flux_with_adapter() -> tuple[Any, dict[str, Any]]:
    """Flux with an IP-Adapter of random weights, and images for both prompts, which lie in one dictionary."""
    pipe, generator = FAMILIES["flux"].build(), torch.Generator().manual_seed(3)
    width, text = pipe.transformer.inner_dim, pipe.transformer.config.joint_attention_dim
    sizes = {"proj.weight": (4 * text, 8), "proj.bias": (4 * text,), "norm.weight": (text,), "norm.bias": (text,)}
    projection = {name: torch.randn(size, generator=generator) / 4 for name, size in sizes.items()}
    keys = {f"0.to_{kind}_ip.weight": torch.randn(width, text, generator=generator) / 4 for kind in "kv"}
    keys |= {f"0.to_{kind}_ip.bias": torch.zeros(width) for kind in "kv"}
    pipe.transformer._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": keys}], low_cpu_mem_usage=False)
    image = 3 * torch.randn(1, 1, 8, generator=generator)
    return pipe, {"ip_adapter_image_embeds": [image], "negative_ip_adapter_image_embeds": [torch.zeros_like(image)]}


def test_an_ip_adapter_of_flux_has_the_prompts_own_image() -> None:
    family, (pipe, images) = FAMILIES["flux"], flux_with_adapter()
    with guide(pipe, ALL_POSITIVE) as guided:
        positive = family.run(guided, **images)
        guided.guidance = ClassifierFreeGuidance(1.0)
        close(positive, family.run(guided, **images))


class Again(ClassifierFreeGuidance):
    """Evaluates the model once more for the same latents, when both predictions were made."""

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Any]:
        assert step.evaluate is not None
        torch.testing.assert_close(step.evaluate(latents), cond)
        return super().guide(cond, uncond, latents, step)


def test_an_evaluation_more_has_the_prompts_own_image() -> None:
    family, (pipe, images) = FAMILIES["flux"], flux_with_adapter()
    with guide(pipe, Again(3.0)) as guided:
        family.run(guided, **images)


def cutoff(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Guidance off after the second step."""
    if index == 1:
        pipe._guidance_scale = 0.0
        tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
    return tensors


@pytest.mark.parametrize("name", ["sd3", "sana"])
def test_after_a_cutoff_of_the_pipeline_nothing_acts(name: str) -> None:
    family, pipe = FAMILIES[name], FAMILIES[name].build()
    given: dict[str, Any] = {"callback_on_step_end": cutoff, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    after, masks = 2, {"negative_prompt_attention_mask": torch.ones(1, 4)}  # which the callback cannot cut
    if name == "sd3":  # whose pooled embeddings have to be cut, too, by a callback that acts a step later
        given, after, masks = {"callback_on_step_end": SD3CFGCutoffCallback(cutoff_step_ratio=0.5)}, 3, {}
    with guide(pipe, RULE) as guided:
        cut = family.run(guided, **given, **masks)
        decisions = [record.decision for record in guided.trace]
        guided.guidance = Interval(RULE, stop=after / 4)
        close(cut, family.run(guided, **masks))
        assert decisions == [record.decision for record in guided.trace]
        assert decisions[after - 1 : after + 1] == [["attention"], ["conditional"]]


def test_a_function_of_ones_own_in_place_of_encode_prompt_stays() -> None:
    family, pipe = FAMILIES["lcm"], FAMILIES["lcm"].build()
    native, calls = pipe.encode_prompt, []

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return native(*args, **kwargs)

    pipe.encode_prompt = own
    with guide(pipe, RULE) as guided:
        family.run(guided, negative_prompt="worm wheel")
    assert pipe.encode_prompt is own
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("lcm", {"negative_prompt": ["x", "y"]}, "as many negative prompts as prompts: 1 image, 2 of them"),
        ("flux-fill", {"prompts": 2, "negative_prompt": ("x",)}, "as many negative prompts as prompts: 2 images, 1 of"),
        ("flux-fill", {"negative_prompt_embeds": torch.zeros(1, 16, 16)}, "negative_pooled_prompt_embeds beside"),
        ("sana-sprint", {"negative_prompt_embeds": torch.zeros(1, 4, 16)}, "negative_prompt_attention_mask beside"),
    ],
)
def test_negative_prompts_that_do_not_go_with_the_prompts(name: str, given: dict[str, Any], message: str) -> None:
    family, pipe = FAMILIES[name], FAMILIES[name].build()
    with guide(pipe, RULE) as guided, pytest.raises(UserError, match=message):
        family.run(guided, **given)
    assert "encode_prompt" not in vars(pipe)


@pytest.mark.parametrize("name", ["flux", "wan21", "lcm", "sd3", "sd"])
@pytest.mark.parametrize("rule", [RULE, ClassifierFreeGuidance(3.0)])
def test_no_tensor_waits_for_the_collector(name: str, rule: Guidance) -> None:
    family, pipe = FAMILIES[name], FAMILIES[name].build()
    if name == "lcm" and rule is not RULE:
        rule = NormalizedAttentionGuidance(1.0)
    seen: list[Any] = []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.extend(weakref.ref(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor))

    hook = family.modules(pipe)[0].register_forward_pre_hook(look, with_kwargs=True)
    gc.collect()
    gc.disable()
    try:
        with guide(pipe, rule) as guided:
            family.run(guided)
        assert seen
        assert not any(each() is not None for each in seen)
    finally:
        gc.enable()
        hook.remove()
