# ruff: noqa: F811 (fixtures are imported)
"""Pipelines that call their denoiser twice a step: the checks of every family, and what is special to them."""

from typing import Any

import pytest
import torch
from families_editing import EDITING
from families_hunyuan import HUNYUAN_VIDEO
from families_spoken import SPOKEN
from families_two_calls import TWO_CALLS
from families_video_two import VIDEO_TWO
from families_worlds import WORLDS
from test_families import (  # noqa: F401
    FirstStep,
    pipe,
    pytestmark,
    same,
    test_against_the_pipeline_itself,
    test_batch,
)
from tiny import Family
from torch import Tensor

from diffguide.guidance import AdaptiveGuidance, AdaptiveProjectedGuidance, ClassifierFreeGuidance, Step
from diffguide.pipelines import guide
from diffguide.pipelines.errors import UserError

FAMILIES = {family.name: family for family in (*TWO_CALLS, *EDITING, *SPOKEN, *VIDEO_TWO, *HUNYUAN_VIDEO, *WORLDS)}


# One of each kind runs always, the others with -m slow.
CORE = {
    "chroma",
    "cogview4",
    "cosmos1",
    "cosmos2",
    "cosmos2.5-predict",
    "flux-kontext",
    "glm",
    "ideogram4",
    "kandinsky6",
    "krea2",
    "lumina2",
    "qwen-edit",
    "qwen21",
    "skyreels2-forcing",
}
PARAMETERS = [pytest.param(f, id=f.name, marks=[] if f.name in CORE else pytest.mark.slow) for f in FAMILIES.values()]


@pytest.fixture(params=PARAMETERS)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


def test_adaptive_guidance_after_its_first_step(family: Family, pipe: Any) -> None:
    """Every step but the first of each section left out, against making the passes and not using them."""
    if family.prediction == "other":
        pytest.skip("no noise prediction to compare")
    with guide(pipe, AdaptiveGuidance(5.0, threshold=-1.0)) as guided:
        ours = family.run(guided)
        assert [record.evaluations for record in guided.trace] == [1 + (record.index == 0) for record in guided.trace]
        guided.guidance = FirstStep(5.0)
        same(ours, family.run(guided))


class Watching(ClassifierFreeGuidance):
    """Plain guidance that keeps what it was given, and the x0 that follows from what it made of it."""

    def __init__(self, guidance_scale: float):
        super().__init__(guidance_scale)
        self.latents: list[Tensor] = []
        self.denoised = torch.empty(0)
        self.steps: list[tuple[Any, Tensor, Tensor]] = []

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> Any:
        assert cond.shape == uncond.shape == latents.shape
        guided, measured = super().guide(cond, uncond, latents, step)
        if step.denoised is not None:
            a, b = step.to_space("denoised")
            self.latents.append(latents.clone())
            if latents.ndim >= self.denoised.ndim:  # of sound there is less
                self.denoised = a * latents + b * guided
                self.steps.append((step.sigma, latents, self.denoised))
        return guided, measured


# After their last step these put something else in place of the latents, or turn them round, or decode them.
CHANGED = (
    "inpaint",
    "klein",
    "layered",
    "animate",
    "framepack",
    "pyramid",
    "kandinsky5-image-to-video",
    "joyimage",
    "cosmos2-",
)


def test_last_x0_is_the_result(family: Family, pipe: Any) -> None:
    """The last step goes to no noise at all, so that the scheduler's own x0 is what the pipeline returns."""
    if family.name == "cosmos2" or any(name in family.name for name in CHANGED):
        pytest.skip("what this pipeline returns is not what its scheduler did")
    rule = Watching(3.0)
    with guide(pipe, rule) as guided:
        result = family.run(guided).float()
    ours = rule.denoised.float()
    if family.name == "kandinsky6":
        ours = ours.permute(0, 4, 1, 2, 3)
    if family.name == "helios":
        result = result[:, :, -ours.shape[2] :]
    if "video" in family.name or family.name == "cosmos2.5-predict":  # the first frames may be given
        ours, result = ours[:, :, -1:], result[:, :, -1:]
    torch.testing.assert_close(ours, result, rtol=1e-4, atol=1e-4 * result.abs().max().item())


@pytest.mark.parametrize("family", [FAMILIES["cosmos2"], FAMILIES["cosmos2-video"]], ids=str)
def test_x0_of_noise_over_signal(family: Family, pipe: Any) -> None:
    """Its last step keeps the noise as it is; the one before is Euler's, from the pipeline's own sigma to 0.002."""
    rule = Watching(3.0)
    with guide(pipe, rule) as guided:
        result = family.run(guided)
    share, z, denoised = rule.steps[-2]
    sigma, x = share / (1 - share), z / (1 - share)
    ours = (x + (0.002 - sigma) * (x - denoised) / sigma)[:, :, -1:]
    torch.testing.assert_close(ours, result.reshape(x.shape)[:, :, -1:], rtol=1e-4, atol=1e-4)


REFERENCED = ("kontext", "klein", "qwen-edit", "qwen21", "joyimage", "ideogram4")


@pytest.mark.parametrize("family", [f for f in FAMILIES.values() if f.name.startswith(("flux", *REFERENCED))], ids=str)
def test_rule_sees_the_latents_and_no_reference(family: Family, pipe: Any) -> None:
    after: list[Tensor] = []

    def keep(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        after.append(tensors["latents"].clone())
        return tensors

    rule = Watching(3.0)
    with guide(pipe, rule) as guided:
        family.run(guided, callback_on_step_end=keep)
    assert len(rule.latents) == len(after)
    for seen, latents in zip(rule.latents[1:], after):
        torch.testing.assert_close(seen, latents[:, -seen.shape[1] :], rtol=0, atol=0)
    assert family.name == "joyimage-edit" or rule.latents[0].shape == after[0].shape


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
