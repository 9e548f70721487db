"""Our rules where a guider has its place: Modular pipelines, and classic ones with a guider of their own."""

import ast
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import ClassifierFreeGuidance as TheirGuidance
from diffusers import SkipLayerGuidance
from tiny import FAMILIES
from tiny_family import seeded
from tiny_slots import SLOTS, build, hunyuan_image, modular, run, run_modular
from torch import Tensor

from diffguide.guidance import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeGuidancePlusPlus,
    Guidance,
    Interval,
    RatioAwareAdaptiveGuidance,
    RewardGuidance,
    Step,
)
from diffguide.pipelines import as_guider, guide


class HalfGuided(ClassifierFreeGuidance):
    """Leaves the unconditional pass out from the third step on."""

    def needs_uncond(self, step: Step) -> bool:
        return step.index < 2


BY_NAME = {family.name: family for family in FAMILIES}
RULES = {
    "cfg": ClassifierFreeGuidance(5.0),
    "conditional": ClassifierFreeGuidance(1.0),
    "apg": AdaptiveProjectedGuidance(5.0),
    "cfg-pp": ClassifierFreeGuidancePlusPlus(5.0),
    "raag": RatioAwareAdaptiveGuidance(5.0),
    "half": HalfGuided(5.0),
    "interval": Interval(AdaptiveProjectedGuidance(8.0), start=0.25, stop=0.75),
}

SKIPPING = {"skip_layer_guidance_layers": [0], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """SDXL, classic and Modular, with the same components."""
    pipe = BY_NAME["sdxl"].build()
    return pipe, modular("StableDiffusionXLAutoBlocks", pipe)


@pytest.mark.parametrize("name", RULES)
def test_same_as_in_the_classic_pipeline(pair: tuple[Any, Any], name: str) -> None:
    classic, its = pair
    with guide(classic, RULES[name]) as guided:
        expected = BY_NAME["sdxl"].run(guided)
    guider = as_guider(RULES[name], its.scheduler)
    its.update_components(guider=guider)
    ours = run_modular(its)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    assert torch.equal(run_modular(its), ours)  # nothing is carried over
    assert len(guider.trace) == 4
    for one, other in zip(guider.trace, guided.trace, strict=True):
        assert (one.index, one.evaluations) == (other.index, other.evaluations)
        assert (one.timestep, one.sigma) == (other.timestep, other.sigma)
        torch.testing.assert_close(one.cosine, other.cosine, rtol=0, atol=1e-5, equal_nan=True)
    if name in ("half", "interval"):
        assert guider.trace.evaluations == 6
    assert not its.unet._forward_pre_hooks


def test_guide_on_a_modular_pipeline(pair: tuple[Any, Any]) -> None:
    """The same without the exchange of the component, which is put back after each call."""
    _, its = pair
    its.update_components(guider=TheirGuidance(3.0))
    before, native = its.guider, run_modular(its)
    with guide(its, RULES["apg"]) as guided:
        ours = run_modular(guided)
        assert its.guider is before
        with pytest.raises(ValueError, match="has a rule already"):
            guide(its, RULES["apg"])
    assert len(guided.trace) == 4
    assert torch.equal(run_modular(its), native)
    its.update_components(guider=as_guider(RULES["apg"], its.scheduler))
    assert torch.equal(run_modular(its), ours)


def test_another_size_and_scheduler(pair: tuple[Any, Any]) -> None:
    _, its = pair
    native_scheduler = its.scheduler
    with guide(its, RULES["apg"]) as guided:
        first = run_modular(guided)
        assert run_modular(guided, height=32, width=32, num_inference_steps=6).shape[-1] == 2 * first.shape[-1]
        its.scheduler = diffusers.EulerDiscreteScheduler.from_config(native_scheduler.config)
        assert run_modular(guided).isfinite().all()
        its.scheduler = native_scheduler
        assert torch.equal(run_modular(guided), first)


@pytest.mark.parametrize("rule", [RULES["cfg"], RULES["apg"]], ids=["cfg", "apg"])
def test_two_calls_a_step(rule: Guidance) -> None:
    """Wan, whose Modular pipeline evaluates as the classic one does; the result is the same to the bit."""
    pipe = BY_NAME["wan21"].build()
    its = modular("WanBlocks", pipe)
    with guide(pipe, rule) as guided:
        expected = BY_NAME["wan21"].run(guided)
    its.update_components(guider=as_guider(rule, its.scheduler))
    options = {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 16, "output_type": "pt"}
    assert torch.equal(run_modular(its, output="latents", **options), expected)


def test_norm_matching_of_qwen_is_the_identity() -> None:
    family = BY_NAME["qwen"]
    pipe = family.build()
    its = modular("QwenImageAutoBlocks", pipe)
    with guide(pipe, RULES["apg"]) as guided:
        expected = family.run(guided, output_type="pt")
    its.update_components(guider=as_guider(RULES["apg"], its.scheduler))
    ours = run_modular(its, negative_prompt=" ", height=32, width=32, output_type="pt")
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SLOTS)
def test_pipelines_with_a_guider_of_their_own(name: str) -> None:
    pipe = build(name)
    guider, native = pipe.guider, run(name, pipe)
    config, attributes = dict(pipe.config), set(vars(pipe))
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        assert torch.equal(run(name, guided), native)
        assert guided.trace.evaluations == 8
        guided.guidance = AdaptiveProjectedGuidance(5.0)
        ours = run(name, guided)
        assert torch.equal(run(name, guided), ours)
        assert (ours - native).abs().max() > 1e-4
        guided.guidance = ClassifierFreeGuidance(1.0)
        alone = run(name, guided)
        assert guided.trace.evaluations == 4
        guided.guidance = HalfGuided(5.0)  # also when the last step of the call before had none
        assert torch.equal(run(name, guided), run(name, guided))
        assert guided.trace.evaluations == 6
    assert pipe.guider is guider
    assert dict(pipe.config) == config
    assert set(vars(pipe)) == attributes
    assert torch.equal(run(name, pipe), native)
    pipe.guider = TheirGuidance(1.0)
    torch.testing.assert_close(alone, run(name, pipe), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["hunyuan-image", "motif-video"])
def test_a_guider_of_diffusers_in_its_own_place_has_a_trace(name: str) -> None:
    pipe = build(name)
    with guide(pipe, SkipLayerGuidance(5.0, **SKIPPING)) as guided:
        ours = run(name, guided)
        assert [record.evaluations for record in guided.trace] == [2, 3, 3, 3]
        guided.guidance = TheirGuidance(5.0)
        assert torch.equal(run(name, guided), run(name, pipe))
        assert (ours - run(name, guided)).abs().max() > 1e-4


def test_both_guiders_of_hunyuan_image() -> None:
    """The one for prompts that ask for lettering as well."""
    pipe = seeded(lambda: hunyuan_image(ocr_guider=TheirGuidance(2.0)))
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        ours = run("hunyuan-image", guided)
    assert torch.equal(ours, run("hunyuan-image", build("hunyuan-image")))
    assert (ours - run("hunyuan-image", pipe)).abs().max() > 1e-3


def failing(module: torch.nn.Module, call: int) -> Any:
    """Lets a module fail at one of its calls; returns the hook."""
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(len(calls) + 1)
        if len(calls) == call:
            raise RuntimeError("stop")

    return module.register_forward_hook(fail)


@pytest.mark.parametrize("rule", [ClassifierFreeGuidance(5.0), SkipLayerGuidance(5.0, **SKIPPING)], ids=["rule", "slg"])
def test_an_exception_inside_the_denoiser_leaves_nothing_behind(rule: Any) -> None:
    pipe = build("motif-video")
    guider, native = pipe.guider, run("motif-video", pipe)
    before = [set(vars(part)) for part in pipe.transformer.modules()]
    hook = failing(pipe.transformer, 5)  # the conditional pass of the third step, or the perturbed one of the second
    with guide(pipe, rule) as guided, pytest.raises(RuntimeError, match="stop"):
        run("motif-video", guided)
    hook.remove()
    assert pipe.guider is guider
    assert [set(vars(part)) for part in pipe.transformer.modules()] == before
    assert not any(part._forward_pre_hooks for part in pipe.transformer.modules())
    assert torch.equal(run("motif-video", pipe), native)


def test_a_rule_as_a_guider_goes_on_after_an_exception() -> None:
    pipe = build("motif-video")
    pipe.guider = as_guider(ClassifierFreeGuidance(5.0), pipe.scheduler)
    ours = run("motif-video", pipe)
    for _ in range(2):
        hook = failing(pipe.transformer, 1)
        with pytest.raises(RuntimeError, match="stop"):
            run("motif-video", pipe)
        hook.remove()
    assert torch.equal(run("motif-video", pipe), ours)
    assert not pipe.transformer._forward_pre_hooks


def test_every_pipeline_with_a_guider_of_its_own_is_known() -> None:
    sources = (Path(diffusers.__file__).parent / "pipelines").glob("*/pipeline_*.py")
    found = set()
    for source in sources:
        classes = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)]
        for cls in classes:
            made = [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
            found |= {cls.name for init in made if "guider" in [argument.arg for argument in init.args.args]}
    assert found <= {
        "HunyuanImagePipeline",
        "HunyuanImageRefinerPipeline",
        "HunyuanVideo15ImageToVideoPipeline",
        "HunyuanVideo15Pipeline",
        "MotifVideoImage2VideoPipeline",
        "MotifVideoPipeline",
    }
    assert "HunyuanImagePipeline" in found


class AfterStep(ClassifierFreeGuidance):
    """Acts on the latents."""

    def after_step(self, latents: Tensor, step: Step) -> Tensor:
        return latents


def test_refusals() -> None:
    scheduler = build("motif-video").scheduler
    for rule in (AfterStep(5.0), Interval(AfterStep(5.0))):
        with pytest.raises(ValueError, match="acts after each step, where a guider has no place"):
            as_guider(rule, scheduler)
    with pytest.raises(ValueError, match="instance of a Guidance class"):
        as_guider(TheirGuidance(5.0), scheduler)
    distilled = seeded(lambda: hunyuan_image(guider=None))
    with pytest.raises(ValueError, match="has no guider: its guidance is distilled"):
        guide(distilled, ClassifierFreeGuidance(5.0))


@pytest.mark.parametrize("rule", [AfterStep(5.0), RewardGuidance(lambda images: images.mean((1, 2, 3)))], ids=repr)
def test_what_a_guider_cannot_do_is_refused_when_it_is_attached(rule: Guidance) -> None:
    pipe = seeded(hunyuan_image)
    with pytest.raises(ValueError, match=r"where a guider has no place|a guider sees neither images nor prompts"):
        guide(pipe, rule)
    with pytest.raises(ValueError, match="preview is for rewards of images"):
        guide(pipe, ClassifierFreeGuidance(5.0), preview=object())
    guide(pipe, ClassifierFreeGuidance(5.0)).remove()


def test_another_scheduler_than_the_one_that_samples_is_refused() -> None:
    pipe = BY_NAME["sdxl"].build()
    its = modular("StableDiffusionXLAutoBlocks", pipe)
    for wrong in (None, pipe):
        with pytest.raises(ValueError, match=r"scheduler that samples, not (None, as before|a StableDiff)"):
            as_guider(RULES["apg"], wrong)
    native = its.scheduler
    for fresh in (True, False):  # whether the one that stays behind has never sampled
        its.update_components(scheduler=diffusers.EulerDiscreteScheduler.from_config(native.config))
        its.update_components(guider=as_guider(RULES["apg"], its.scheduler))
        expected = None if fresh else run_modular(its)
        its.update_components(scheduler=diffusers.EulerAncestralDiscreteScheduler.from_config(native.config))
        with pytest.raises(ValueError, match="EulerDiscreteScheduler that is not the one that samples"):
            run_modular(its)
        its.update_components(scheduler=its.guider.scheduler)
        again = run_modular(its)
        assert expected is None or torch.equal(again, expected)
