# ruff: noqa: F811 (fixtures are imported)
"""What is special about single pipelines that call their denoiser twice a step."""

from typing import Any

import pytest
import torch
from test_families import (  # noqa: F401
    FirstStep,
    pipe,
    pytestmark,
    same,
)
from test_two_calls import FAMILIES
from tiny_family import Family
from torch import Tensor

from diffguide.guidance import AdaptiveGuidance, AdaptiveProjectedGuidance, ClassifierFreeGuidance, Step
from diffguide.pipelines import guide
from diffguide.pipelines.errors import UserError


@pytest.mark.parametrize("family", [FAMILIES["lumina2"]], ids=str)
@pytest.mark.parametrize("threshold", [None, -1.0])
def test_native_truncation(family: Family, pipe: Any, threshold: float | None) -> None:
    """The pipeline ends its guidance on the way, whether or not the rule has ended its own before."""
    native = family.run_native(pipe, 5.0, cfg_trunc_ratio=0.5)
    with guide(pipe, family.native(5.0)) as guided:
        if threshold is not None:
            guided.guidance = AdaptiveGuidance(5.0, threshold=threshold)
        ours = family.run(guided, cfg_trunc_ratio=0.5)
        expected = [2, 2, 1, 1] if threshold is None else [2, 1, 1, 1]
        assert [record.evaluations for record in guided.trace] == expected
        if threshold is not None:
            guided.guidance = FirstStep(5.0)
            native = family.run(guided)
    same(ours, native)


class Later(ClassifierFreeGuidance):
    """No guidance at the first step."""

    def needs_uncond(self, step: Step) -> bool:
        return step.index > 0


class LaterWithBoth(ClassifierFreeGuidance):
    """The same, both predictions made."""

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> Any:
        guided, measured = super().guide(cond, uncond, latents, step)
        return (guided if step.index else cond), measured


@pytest.mark.parametrize("family", [FAMILIES["qwen21"], FAMILIES["glm"], FAMILIES["ideogram4"]], ids=str)
def test_caches_are_filled_though_the_first_pass_is_not_used(family: Family, pipe: Any) -> None:
    with guide(pipe, Later(5.0)) as guided:
        ours = family.run(guided)
        guided.guidance = LaterWithBoth(5.0)
        same(ours, family.run(guided))


@pytest.mark.parametrize("family", [FAMILIES["ideogram4"], FAMILIES["qwen-edit"]], ids=str)
def test_exception_with_a_pass_left_out_leaves_nothing_behind(family: Family, pipe: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("from the callback")

    with guide(pipe, ClassifierFreeGuidance(1.0)) as guided:
        expected = family.run(guided)
        hook = pipe.transformer.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="from the callback"):
            family.run(guided)
        hook.remove()
        assert "prepare_latents" not in vars(pipe)
        assert torch.equal(family.run(guided), expected)


@pytest.mark.parametrize("family", [FAMILIES["ideogram4"]], ids=str)
def test_a_schedule_of_the_pipelines_own_does_not_count_and_is_warned_of(family: Family, pipe: Any) -> None:
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        plain = family.run(guided)
        with pytest.warns(UserWarning, match="guidance_schedule is not used"):
            assert torch.equal(family.run(guided, guidance_schedule=(9.0,) * 4), plain)


@pytest.mark.parametrize("family", [FAMILIES["flux2-klein"]], ids=str)
def test_distilled_model_says_that_there_is_nothing_to_act_on(family: Family, pipe: Any) -> None:
    pipe.register_to_config(is_distilled=True)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided, pytest.raises(UserError, match="distilled"):
        family.run(guided)


@pytest.mark.parametrize("family", [FAMILIES["skyreels2-forcing"]], ids=str)
def test_frames_at_different_times(family: Family, pipe: Any) -> None:
    """Rules on predictions go on as they are; one on x0, which would need a sigma per frame, says that it cannot."""
    late = {"ar_step": 2, "num_frames": 9}
    native = family.run_native(pipe, 5.0, **late)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        same(family.run(guided, **late), native)
        guided.guidance = AdaptiveProjectedGuidance(5.0)
        with pytest.raises(ValueError, match="denoised space"):
            family.run(guided, **late)


@pytest.mark.parametrize("family", [FAMILIES["kandinsky6"]], ids=str)
def test_every_stream_is_asked_and_one_that_needs_both_has_both(family: Family, pipe: Any) -> None:
    class One(ClassifierFreeGuidance):
        """Asked for its first stream it says no, and yes for the other."""

        asked = 0

        def needs_uncond(self, step: Step) -> bool:
            self.asked += 1
            return self.asked % 2 == 0

    rule = One(5.0)
    with guide(pipe, rule) as guided:
        family.run(guided)
        assert rule.asked == 2 * len(guided.trace)
        assert {record.evaluations for record in guided.trace} == {2}
