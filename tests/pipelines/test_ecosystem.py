"""A rule beside what else people attach to a pipeline: adapters, offloading, caches, copies, threads."""

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import tiny_parts as parts
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    HeunDiscreteScheduler,
    PyramidAttentionBroadcastConfig,
    StableDiffusionPipeline,
)
from diffusers.hooks import apply_faster_cache
from tiny import FAMILIES, sd, seeded, wan
from torch import Tensor

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide

BY_NAME = {family.name: family for family in FAMILIES}
SD = BY_NAME["sd"]


def adapter(pipe: Any, folder: Path) -> Path:
    """A folder with a random LoRA for this pipeline's denoiser."""
    peft = pytest.importorskip("peft")
    other = copy.deepcopy(pipe.unet)
    other.add_adapter(peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    layers = peft.get_peft_model_state_dict(other)
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    return folder


def test_lora_loaded_scaled_fused_and_unloaded(tmp_path: Path) -> None:
    pipe = SD.build()
    folder, plain = adapter(pipe, tmp_path), SD.run_native(pipe, 5.0)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        pipe.load_lora_weights(folder)
        loaded, half = SD.run(guided), SD.run(guided, cross_attention_kwargs={"scale": 0.5})
        pipe.fuse_lora()
        fused = SD.run(guided)
        pipe.unfuse_lora()
        pipe.unload_lora_weights()
        torch.testing.assert_close(SD.run(guided), plain, rtol=0, atol=1e-4)  # unfusing rounds
    pipe.load_lora_weights(folder)
    torch.testing.assert_close(loaded, SD.run_native(pipe, 5.0), rtol=0, atol=1e-4)
    native_half = SD.run_native(pipe, 5.0, cross_attention_kwargs={"scale": 0.5})
    torch.testing.assert_close(half, native_half, rtol=0, atol=1e-4)
    pipe.fuse_lora()
    torch.testing.assert_close(fused, SD.run_native(pipe, 5.0), rtol=0, atol=1e-4)
    assert (loaded - plain).abs().max() > 1e-2
    assert (loaded - half).abs().max() > 1e-2


def ip_adapter(unet: Any) -> dict[str, Any]:
    """Random weights of an adapter that turns one image embedding into four tokens, as they lie in its file."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / 4

    projection = {
        "proj.weight": random(64, 8),
        "proj.bias": random(64),
        "norm.weight": torch.ones(16),
        "norm.bias": torch.zeros(16),
    }
    attention = {}
    for k, name in enumerate(name for name in unet.attn_processors if "attn2" in name):
        width = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        attention |= {f"{1 + 2 * k}.to_{kind}_ip.weight": random(width, 16) for kind in "kv"}
    return {"image_proj": projection, "ip_adapter": attention}


@pytest.mark.parametrize("scale", [5.0, 1.0])
def test_ip_adapter(scale: float) -> None:
    pipe = SD.build()
    plain = SD.run_native(pipe, scale)
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)], low_cpu_mem_usage=False)
    embedding = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(1))
    both = {"ip_adapter_image_embeds": [torch.cat([torch.zeros_like(embedding), embedding])]}
    alone = {"ip_adapter_image_embeds": [embedding]}
    native = SD.run_native(pipe, scale, **(both if scale > 1 else alone))
    assert (native - plain).abs().max() > 1e-2
    with guide(pipe, ClassifierFreeGuidance(scale)) as guided:
        ours = SD.run(guided, **both)
        assert guided.trace.evaluations == (8 if scale > 1 else 4)
    torch.testing.assert_close(ours, native, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["sd", "flux", "wan22"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_offloading_before_and_after_attaching(name: str, when: str, kind: str) -> None:
    """What `enable_*_cpu_offload` does with accelerate, on the CPU; it adds its hooks anew after each call."""
    family = BY_NAME[name]
    pipe = family.build()
    native, off = family.run_native(pipe, 5.0), family.run_native(pipe, 1.0)

    def offload() -> None:
        for module in family.modules(pipe):
            remove_hook_from_module(module, recurse=True)
            if kind == "model":
                cpu_offload_with_hook(module, torch.device("cpu"))
            else:
                cpu_offload(module, torch.device("cpu"))

    if when == "before":
        offload()
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        for _ in range(2):
            if when == "after":
                offload()
            torch.testing.assert_close(family.run(guided), native, rtol=0, atol=1e-6)
            assert guided.trace.evaluations == 2 * len(guided.trace) > 0
        guided.guidance = ClassifierFreeGuidance(1.0)
        torch.testing.assert_close(family.run(guided), off, rtol=0, atol=1e-5)
        assert guided.trace.evaluations == len(guided.trace)
    assert all(hasattr(module, "_hf_hook") for module in family.modules(pipe))
    torch.testing.assert_close(family.run_native(pipe, 5.0), native, rtol=0, atol=1e-6)


CACHES = {
    "first-block": lambda pipe: FirstBlockCacheConfig(threshold=10.0),
    "faster": lambda pipe: FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 900),  # after a step that fills it
        attention_weight_callback=lambda module: 0.5,
        is_guidance_distilled=True,
        current_timestep_callback=lambda: float(pipe._current_timestep),
    ),
    "pyramid": lambda pipe: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: float(pipe._current_timestep),
    ),
}


@pytest.mark.parametrize("name", ["flux", "wan21"])
@pytest.mark.parametrize("cache", CACHES)
def test_caches_of_diffusers(name: str, cache: str) -> None:
    family = BY_NAME[name]
    pipe = family.build()
    if name == "wan21":  # these caches need blocks after the first
        pipe = seeded(lambda: wan(transformer=parts.wan_transformer(num_layers=3)))
    exact = family.run_native(pipe, 5.0)
    pipe.transformer.enable_cache(CACHES[cache](pipe))
    native, off = family.run_native(pipe, 5.0), family.run_native(pipe, 1.0)
    assert (native - exact).abs().max() > 1e-5  # or the cache did nothing
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        torch.testing.assert_close(family.run(guided), native, rtol=0, atol=1e-6)
        torch.testing.assert_close(family.run(guided), native, rtol=0, atol=1e-6)
        guided.guidance = ClassifierFreeGuidance(1.0)
        torch.testing.assert_close(family.run(guided), off, rtol=0, atol=1e-5)
        guided.guidance = AdaptiveProjectedGuidance(5.0)
        assert family.run(guided).isfinite().all()
    pipe.transformer.disable_cache()
    assert torch.equal(family.run_native(pipe, 5.0), exact)


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # FasterCache's own
def test_a_cache_that_cuts_the_batch_itself() -> None:
    """FasterCache estimates the unconditional half of a batched call; a rule must not cut it out before."""
    family = BY_NAME["sd3"]
    pipe = family.build()
    exact = family.run_native(pipe, 5.0, prompts=2, steps=6)
    names = ("hidden_states", "encoder_hidden_states", "timestep", "pooled_projections")
    config = FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 900),
        unconditional_batch_skip_range=2,
        unconditional_batch_timestep_skip_range=(-1, 900),
        attention_weight_callback=lambda module: 0.5,
        tensor_format="BCHW",
        current_timestep_callback=lambda: float(pipe.scheduler.timesteps[pipe.scheduler.step_index or 0]),
        _unconditional_conditional_input_kwargs_identifiers=names,
    )
    apply_faster_cache(pipe.transformer, config)
    native = family.run_native(pipe, 5.0, prompts=2, steps=6)
    assert (native - exact).abs().max() > 1e-4
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        torch.testing.assert_close(family.run(guided, prompts=2, steps=6), native, rtol=0, atol=1e-6)
        guided.guidance = ClassifierFreeGuidance(1.0)
        assert family.run(guided, prompts=2, steps=6).isfinite().all()
        assert guided.trace.evaluations == 12  # nothing can be left out


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # importing diffusers' Kolors
def test_auto_pipeline() -> None:
    from diffusers import AutoPipelineForText2Image

    pipe = AutoPipelineForText2Image.from_pipe(SD.build())
    pipe.set_progress_bar_config(disable=True)
    native = SD.run_native(pipe, 5.0)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        assert torch.equal(SD.run(guided), native)


def test_several_handles_at_a_time() -> None:
    first, second = SD.build(), BY_NAME["flux"].build()
    expected = [SD.run_native(first, 5.0), BY_NAME["flux"].run_native(second, 3.0)]
    one, other = guide(first, ClassifierFreeGuidance(5.0)), guide(second, ClassifierFreeGuidance(3.0))
    for _ in range(2):
        assert torch.equal(SD.run(one), expected[0])
        assert torch.equal(BY_NAME["flux"].run(other), expected[1])
    one.remove()
    assert torch.equal(BY_NAME["flux"].run(other), expected[1])
    other.remove()
    assert torch.equal(SD.run_native(first, 5.0), expected[0])


def test_threads_with_a_pipeline_each() -> None:
    rules = [ClassifierFreeGuidance(5.0), AdaptiveProjectedGuidance(5.0), ClassifierFreeGuidance(1.0)]

    def call(pipe: Any, rule: Any) -> Tensor:
        """Without the global random state, which threads share."""
        with guide(pipe, rule) as guided:
            return guided(
                "red apple", num_inference_steps=6, output_type="latent", generator=torch.Generator().manual_seed(0)
            )[0]

    expected = [call(SD.build(), rule) for rule in rules]
    results: list[Any] = [None] * len(rules)
    pipes = [SD.build() for _ in rules]

    def work(k: int) -> None:
        for _ in range(3):
            results[k] = call(pipes[k], rules[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(rules))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, one in zip(results, expected, strict=True):
        assert torch.equal(result, one)


@pytest.mark.parametrize("kind", ["deepcopy", "copy", "pickle"])
def test_a_copy_of_a_guided_pipeline_is_a_plain_one(kind: str) -> None:
    pipe = SD.build()
    native = SD.run_native(pipe, 3.0)
    with guide(pipe, AdaptiveProjectedGuidance(5.0)) as guided:
        ours = SD.run(guided)
        made = {
            "deepcopy": lambda: copy.deepcopy(pipe),
            "copy": lambda: copy.copy(pipe),
            "pickle": lambda: pickle.loads(pickle.dumps(pipe)),
        }[kind]()
        assert type(made) is StableDiffusionPipeline
        assert torch.equal(SD.run_native(made, 3.0), native)
        with guide(made, ClassifierFreeGuidance(3.0)) as second:
            assert torch.equal(SD.run(second), native)
            assert torch.equal(SD.run(guided), ours)


def test_saved_while_guided(tmp_path: Path) -> None:
    pipe = SD.build()
    native = SD.run_native(pipe, 3.0)
    with guide(pipe, AdaptiveProjectedGuidance(5.0)):
        pipe.save_pretrained(tmp_path)
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None, requires_safety_checker=False)
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(SD.run_native(loaded, 3.0), native, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["sd", "flux", "wan21"])
def test_what_may_change_between_calls(name: str) -> None:
    """Each call is that of a fresh pipeline, whatever the one before was like."""
    family = BY_NAME[name]
    schedulers = {
        "sd": [DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler],
        "wan21": [DPMSolverMultistepScheduler],
    }.get(name, [])
    calls: list[dict[str, Any]] = [{}, {"steps": 7}, {"prompts": 2, "images": 2}, {"height": 32, "width": 48}, {}]
    rule, pipe = AdaptiveProjectedGuidance(5.0), family.build()
    with guide(pipe, rule) as guided:
        for scheduler in [None, *schedulers]:
            if scheduler is not None:
                pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
            for call in calls:
                fresh = family.build()
                if scheduler is not None:
                    fresh.scheduler = scheduler.from_config(fresh.scheduler.config)
                with guide(fresh, rule) as other:
                    expected = family.run(other, **call)
                assert torch.equal(family.run(guided, **call), expected)


def test_a_denoiser_put_into_the_pipeline_while_guided() -> None:
    pipe, rule = SD.build(), ClassifierFreeGuidance(5.0)
    with guide(pipe, rule) as guided:
        first = SD.run(guided)
        other = SD.build()
        other.unet = pipe.unet = seeded(lambda: sd(unet=parts.unet(layers_per_block=2))).unet
        ours = SD.run(guided)
    assert torch.equal(ours, SD.run_native(other, 5.0))
    assert not torch.equal(ours, first)
