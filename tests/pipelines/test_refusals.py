"""Where no rule can act: one clear line, never silence, and a pipeline that is as usable as before."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny_parts as parts
import torch
from diffusers import (
    DDIMPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusion3PAGPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLPAGPipeline,
    UNet2DModel,
)
from tiny import BETAS, FAMILIES, ddim, sd, sd3, sdxl
from tiny_family import Family, seeded

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide
from diffguide.pipelines.errors import UserError

BY_NAME = {family.name: family for family in FAMILIES}
RULE = AdaptiveProjectedGuidance(5.0)


def refused(words: str, action: Callable[[], Any]) -> None:
    """`action` raises a UserError of one line that says `words`."""
    with pytest.raises(UserError, match=words) as caught:
        action()
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def lcm() -> Any:
    unet = parts.unet(time_cond_proj_dim=16)
    return sd(LatentConsistencyModelPipeline, unet=unet, scheduler=LCMScheduler(**BETAS, clip_sample=False))


def unconditional() -> DDIMPipeline:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, **blocks)
    return DDIMPipeline(unet, ddim())


SMALL = {"height": 16, "width": 16}
REFUSED = [
    pytest.param(lcm, {"prompt": "dog"}, "distilled", id="lcm"),
    pytest.param(lambda: sd(StableDiffusionPAGPipeline), {"prompt": "dog"}, "perturbed", id="sd-pag"),
    pytest.param(lambda: sdxl(StableDiffusionXLPAGPipeline), {"prompt": "dog"} | SMALL, "perturbed", id="sdxl-pag"),
    pytest.param(
        lambda: sd3(StableDiffusion3PAGPipeline, pag_applied_layers="blocks.0"),
        {"prompt": "dog"} | SMALL,
        "perturbed",
        id="sd3-pag",
    ),
    pytest.param(unconditional, {}, "DDIMPipeline is not a pipeline whose guidance is known", id="unknown"),
]


@pytest.mark.parametrize(("make", "call", "words"), REFUSED)
def test_pipeline_without_an_unconditional_prediction_of_its_own(make: Any, call: dict[str, Any], words: str) -> None:
    pipe = seeded(make)
    cls = type(pipe)

    def run() -> torch.Tensor:
        options = {"num_inference_steps": 2, "output_type": "pt", "generator": torch.Generator().manual_seed(0)}
        if "prompt" not in call:
            options["output_type"] = "np"
        return torch.as_tensor(pipe(**(options | call))[0])

    before = run()
    refused(words, lambda: guide(pipe, RULE))
    assert type(pipe) is cls
    assert torch.equal(run(), before)


def refused_call(family: Family, pipe: Any, words: str, **arguments: Any) -> None:
    """A guided call with these arguments is refused, the pipeline works as before, and the next call is right."""
    native = family.run_native(pipe, 5.0)
    with guide(pipe, family.native(5.0)) as guided:
        refused(words, lambda: family.run(guided, **arguments))
        torch.testing.assert_close(family.run(guided), native, rtol=0, atol=1e-6)
    assert torch.equal(family.run_native(pipe, 5.0), native)


@pytest.mark.parametrize("scale", [1, 1.0, 0.5, 0])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_guidance_switched_off_by_the_caller(family: Family, scale: float) -> None:
    refused_call(family, family.build(), f"{family.scale}={scale} switches", **{family.scale: scale})


def test_model_with_its_scale_embedded() -> None:
    """Stable Diffusion with a UNet distilled for LCM: the pipeline itself turns guidance off, whatever the scale."""
    family = BY_NAME["sd"]
    pipe = seeded(lambda: sd(unet=parts.unet(time_cond_proj_dim=16)))
    native = family.run_native(pipe, 5.0)
    with guide(pipe, RULE) as guided:
        refused("no unconditional prediction", lambda: family.run(guided))
        guided.guidance = ClassifierFreeGuidance(1.0)
        refused("no unconditional prediction", lambda: family.run(guided))
    assert torch.equal(family.run_native(pipe, 5.0), native)


def test_two_rules_at_once() -> None:
    family = BY_NAME["sd"]
    pipe = family.build()
    guided = guide(pipe, RULE)
    refused("has a rule already", lambda: guide(pipe, RULE))
    refused("has a rule already", lambda: guide(guided, RULE))
    family.run(guided)
    guided.remove()
    guide(pipe, RULE).remove()


@pytest.mark.parametrize("rule", ["apg", None, 7.5, AdaptiveProjectedGuidance])
def test_rule_that_is_none(rule: Any) -> None:
    family = BY_NAME["sd"]
    pipe = family.build()
    cls, native = type(pipe), family.run_native(pipe, 5.0)
    refused("a rule is an instance of a Guidance class", lambda: guide(pipe, rule))
    assert type(pipe) is cls
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        with pytest.raises(UserError, match="Guidance class"):
            guided.guidance = rule
        torch.testing.assert_close(family.run(guided), native, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pipe", [None, "emoji-sd", 3])
def test_pipeline_that_is_none(pipe: Any) -> None:
    refused("is not a pipeline", lambda: guide(pipe, RULE))
