"""A rule beside other hooks on the denoiser: offloading, and the caches of diffusers."""

import copy
from typing import Any

import pytest
import tiny_parts as parts
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
from diffusers import FasterCacheConfig, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import apply_faster_cache
from families import BATCHED
from tiny import FAMILIES, wan
from tiny_family import seeded

from diffguide.guidance import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    Interval,
    NormalizedAttentionGuidance,
)
from diffguide.pipelines import guide
from diffguide.pipelines.errors import UserError

BY_NAME = {family.name: family for family in FAMILIES}


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


def test_a_cache_of_others_that_replaces_forward() -> None:
    """As DeepCache does: what a block returned at one step is returned at the next, whatever its rows."""
    family, kept = BY_NAME["sd"], []
    pipe = family.build()
    block, count = pipe.unet.mid_block, iter(range(100))
    native = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if next(count) % 2 == 0:
            kept[:] = [native(*args, **kwargs)]
        return kept[0]

    block.forward = forward
    cached, off = family.run_native(pipe, 5.0), family.run_native(pipe, 1.0)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        torch.testing.assert_close(family.run(guided), cached, rtol=0, atol=1e-6)
        guided.guidance = Interval(ClassifierFreeGuidance(5.0), stop=0.25)
        assert family.run(guided).isfinite().all()
        assert guided.trace.evaluations == 8  # nothing is left out
        guided.guidance = ClassifierFreeGuidance(1.0)
        torch.testing.assert_close(family.run(guided), off, rtol=0, atol=1e-5)
        guided.guidance = NormalizedAttentionGuidance(3.0)
        with pytest.raises(UserError, match="a cache answers for its attention"):
            family.run(guided)
        block.forward = native  # taken off
        guided.guidance = Interval(ClassifierFreeGuidance(5.0), stop=0.25)
        family.run(guided)
        assert guided.trace.evaluations == 5


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


BROADCAST = {
    f"{kind}_attention_{what}": value
    for kind in ("spatial", "temporal", "cross")
    for what, value in {"block_skip_range": 2, "timestep_skip_range": (-1, 1001)}.items()
}


@pytest.mark.parametrize("name", ["ltx", "cogvideox"])
@pytest.mark.parametrize("cache", ["first-block", "broadcast"])
def test_a_cache_of_a_batched_denoiser_sees_all_rows(name: str, cache: str) -> None:
    """It would add a residual of as many rows as there were at an earlier step."""
    family = {family.name: family for family in BATCHED}[name]
    pipe = family.build()
    block = pipe.transformer.transformer_blocks[0]
    pipe.transformer.transformer_blocks = torch.nn.ModuleList([copy.deepcopy(block) for _ in range(4)])
    config = FirstBlockCacheConfig(threshold=10.0)
    if cache == "broadcast":
        clock = {"current_timestep_callback": lambda: float(pipe._current_timestep)}
        config = PyramidAttentionBroadcastConfig(**BROADCAST, **clock)
    pipe.transformer.enable_cache(config)
    for prompts in (1, 2):
        native = family.run_native(pipe, 5.0, prompts=prompts)
        for rule in (Interval(ClassifierFreeGuidance(5.0), stop=0.5), Interval(ClassifierFreeGuidance(5.0), start=0.5)):
            with guide(pipe, rule) as guided:
                assert family.run(guided, prompts=prompts).isfinite().all()
                assert guided.trace.evaluations == 2 * len(guided.trace)
                guided.guidance = ClassifierFreeGuidance(5.0)
                torch.testing.assert_close(family.run(guided, prompts=prompts), native, rtol=0, atol=1e-5)
