# ruff: noqa: F811 (fixtures are imported)
"""Pipelines that call their denoiser twice a step: the checks of every family, and what rules are given."""

from typing import Any

import pytest
import torch
from families_editing import EDITING
from families_hunyuan import HUNYUAN_VIDEO
from families_longcat import LONGCAT
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
from tiny_family import Family
from torch import Tensor

from diffguide.guidance import AdaptiveGuidance, ClassifierFreeGuidance, Step
from diffguide.pipelines import guide

FAMILIES = {
    family.name: family for family in (*TWO_CALLS, *EDITING, *SPOKEN, *LONGCAT, *VIDEO_TWO, *HUNYUAN_VIDEO, *WORLDS)
}


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
