"""A rule on every family of pipelines, against the pipeline's own guidance: same prompts, same seed, final latents."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import FAMILIES
from tiny_family import Family
from torch import Tensor, nn

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide

PLAIN_APG = {"eta": 1.0, "norm_threshold": 0.0, "momentum": 0.0}


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture
def pipe(family: Family) -> Iterator[Any]:
    pipe = family.build()
    yield pipe
    for module in family.modules(pipe):
        assert_clean(module)


def assert_clean(module: nn.Module) -> None:
    assert not module._forward_pre_hooks
    assert not module._forward_hooks
    assert "forward" not in vars(module)


def rows_evaluated(family: Family, pipe: Any, **call: Any) -> int:
    """Run the pipeline; how many samples went through the first layer with parameters of its denoisers."""
    rows, hooks = [], []
    for module in family.modules(pipe):
        first = next(child for child in module.children() if any(True for _ in child.parameters()))
        hooks.append(first.register_forward_hook(lambda module, args, output: rows.append(len(output))))
    try:
        family.run(pipe, **call)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(rows)


@pytest.mark.parametrize(("prompts", "images"), [(1, 1), (2, 2)])
def test_native_guidance_as_a_rule_is_native(family: Family, pipe: Any, prompts: int, images: int) -> None:
    native = family.run_native(pipe, 5.0, prompts=prompts, images=images)
    off = family.run_native(pipe, 1.0, prompts=prompts, images=images)
    assert (native - off).abs().max() > 1e-3  # or the comparison would say nothing
    with guide(pipe, family.native(5.0)) as guided:
        ours = family.run(guided, prompts=prompts, images=images)
    torch.testing.assert_close(ours, native, rtol=0, atol=1e-6)


def test_scale_of_the_pipeline_does_not_count(family: Family, pipe: Any) -> None:
    with guide(pipe, family.native(5.0)) as guided:
        expected = family.run(guided)
        with pytest.warns(UserWarning, match=rf"{family.scale}=2.5 is not used"):
            other = family.run(guided, **{family.scale: 2.5})
    assert torch.equal(other, expected)


def test_scale_one_leaves_the_unconditional_pass_out(family: Family, pipe: Any) -> None:
    off = family.run_native(pipe, 1.0)
    with guide(pipe, ClassifierFreeGuidance(1.0)) as guided:
        ours = family.run(guided)
        half = rows_evaluated(family, pipe)
        assert [record.evaluations for record in guided.trace] == [1] * len(guided.trace)
        guided.guidance = ClassifierFreeGuidance(5.0)
        assert rows_evaluated(family, pipe) == 2 * half
        assert [record.evaluations for record in guided.trace] == [2] * len(guided.trace)
    torch.testing.assert_close(ours, off, rtol=0, atol=1e-5)
    assert half == len(guided.trace)


def test_apg_without_its_changes_is_cfg(family: Family, pipe: Any) -> None:
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        cfg = family.run(guided)
        guided.guidance = AdaptiveProjectedGuidance(5.0, **PLAIN_APG)
        plain = family.run(guided)
        guided.guidance = AdaptiveProjectedGuidance(5.0)
        default = family.run(guided)
    torch.testing.assert_close(plain, cfg, rtol=1e-6, atol=1e-5)
    assert default.isfinite().all()
    assert (default - cfg).abs().max() > 1e-3


def test_calls_do_not_remember_each_other(family: Family, pipe: Any) -> None:
    with guide(pipe, AdaptiveProjectedGuidance(5.0)) as guided:
        first = family.run(guided)
        second = family.run(guided)
        family.run(guided, prompts=2, images=2, steps=6)
        third = family.run(guided)
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_remove_gives_the_pipeline_back(family: Family, pipe: Any) -> None:
    native = family.run_native(pipe, 5.0)
    cls, attributes = type(pipe), set(vars(pipe))
    guided = guide(pipe, AdaptiveProjectedGuidance(5.0))
    family.run(guided)
    for module in family.modules(pipe):
        assert_clean(module)  # even while attached: hooks live for the length of a call
    guided.remove()
    guided.remove()
    assert type(pipe) is cls
    assert set(vars(pipe)) == attributes
    assert torch.equal(family.run_native(pipe, 5.0), native)


class StopSamplingError(Exception):
    """Raised by a user's callback."""


@pytest.mark.parametrize("rule", [AdaptiveProjectedGuidance(5.0), ClassifierFreeGuidance(1.0)], ids=["two", "one"])
def test_exception_inside_leaves_nothing_behind(family: Family, pipe: Any, rule: Any) -> None:
    def stop(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if index == 2:
            raise StopSamplingError
        return tensors

    native = family.run_native(pipe, 5.0)
    with guide(pipe, rule) as guided:
        expected = family.run(guided)
        with pytest.raises(StopSamplingError):
            family.run(guided, callback_on_step_end=stop)
        for module in family.modules(pipe):
            assert_clean(module)
        assert torch.equal(family.run(guided), expected)
    assert torch.equal(family.run_native(pipe, 5.0), native)


@pytest.mark.parametrize("when", [1, 2])
def test_exception_inside_the_denoiser_leaves_nothing_behind(family: Family, pipe: Any, when: int) -> None:
    """At the first call, or at the second: with two calls a step, that is where the one which is left out would be."""
    calls: list[nn.Module] = []

    def fail(module: nn.Module, args: Any, output: Any) -> None:
        calls.append(module)
        if len(calls) == when:
            raise StopSamplingError

    with guide(pipe, ClassifierFreeGuidance(1.0)) as guided:
        expected = family.run(guided)
        hook = family.modules(pipe)[0].register_forward_hook(fail)
        with pytest.raises(StopSamplingError):
            family.run(guided)
        hook.remove()
        for module in family.modules(pipe):
            assert_clean(module)
        assert torch.equal(family.run(guided), expected)


def test_other_hooks_see_what_the_denoiser_said(family: Family, pipe: Any) -> None:
    """Handing the guided result back changes no tensor that somebody else holds."""
    seen: list[tuple[Tensor, Tensor]] = []

    def record(module: nn.Module, args: Any, output: Any) -> None:
        seen.append((output[0], output[0].clone()))

    hook = family.modules(pipe)[0].register_forward_hook(record)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        family.run(guided)
    hook.remove()
    assert seen
    for held, copy in seen:
        assert torch.equal(held, copy)


def test_other_pipeline_with_the_same_denoiser_is_untouched(family: Family, pipe: Any) -> None:
    other = family.build()
    for name in family.denoisers:
        setattr(other, name, getattr(pipe, name))
    expected = family.run_native(other, 3.0)
    with guide(pipe, AdaptiveProjectedGuidance(5.0)) as guided:
        family.run(guided)
        assert torch.equal(family.run_native(other, 3.0), expected)


def test_callback_of_the_user_is_called_unchanged(family: Family, pipe: Any) -> None:
    seen: list[tuple[Any, int, float, list[str], Tensor]] = []

    def record(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((pipe, index, float(timestep), sorted(tensors), tensors["latents"].clone()))
        return tensors

    options = {"callback_on_step_end": record, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    family.run_native(pipe, 5.0, **options)
    native, seen = seen, []
    with guide(pipe, family.native(5.0)) as guided:
        family.run(guided, **options)
    assert len(seen) == len(native) > 1
    for ours, theirs in zip(seen, native, strict=True):
        assert ours[0] is pipe
        assert ours[1:4] == theirs[1:4]
        torch.testing.assert_close(ours[4], theirs[4], rtol=0, atol=1e-6)


def test_bfloat16(family: Family, pipe: Any) -> None:
    pipe.to(torch.bfloat16)
    native = family.run_native(pipe, 5.0, prompts=2)
    with guide(pipe, family.native(5.0)) as guided:
        assert torch.equal(family.run(guided, prompts=2), native)
        guided.guidance = AdaptiveProjectedGuidance(5.0)
        ours = family.run(guided, prompts=2)
    assert ours.dtype == native.dtype
    assert ours.isfinite().all()
