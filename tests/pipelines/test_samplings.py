"""One call of a pipeline, and the samplings in it: several, or one that leaves its first steps out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    IFImg2ImgPipeline,
    KandinskyV22ControlnetImg2ImgPipeline,
    KDPM2DiscreteScheduler,
    LTXI2VLongMultiPromptPipeline,
    PNDMScheduler,
    StableDiffusionXLControlNetPipeline,
)
from families_kandinsky import images22, kandinsky22
from families_ltx import ltx
from families_unet import deepfloyd
from test_families import BATCHED
from tiny import BETAS, parts, sdxl
from tiny_family import Family, seeded
from tiny_inputs import SMALL, picture, states
from tiny_made import words
from torch import Tensor

from diffguide.guidance import (
    AdaptiveGuidance,
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    Guidance,
    Interval,
    Scheduled,
    Step,
)
from diffguide.pipelines import guide

pytestmark = pytest.mark.filterwarnings("ignore")
ANIMATE = next(family for family in BATCHED if family.name == "animatediff")


class Noting(ClassifierFreeGuidance):
    """Plain guidance that notes each step's place, and how many steps it remembers."""

    def __init__(self, guidance_scale: float = 5.0):
        super().__init__(guidance_scale)
        self.seen: list[tuple[int, int, int]] = []

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> Any:
        step.state.setdefault("before", []).append(cond)
        self.seen.append((step.index, step.total, len(step.state["before"]) - 1))
        return super().guide(cond, uncond, latents, step)


def whole(total: int) -> list[tuple[int, int, int]]:
    """What is noted of a sampling of `total` evaluations."""
    return [(index, total, index) for index in range(total)]


def again(fast: bool = False, **changes: Any) -> Any:
    """AnimateDiff that samples twice in each call."""
    pipe = ANIMATE.build()
    for name, part in changes.items():
        setattr(pipe, name, part)
    pipe.enable_free_init(num_iters=2, use_fast_sampling=fast)
    return pipe


@pytest.mark.parametrize(
    ("rule", "evaluations"),
    [
        (AdaptiveGuidance(5.0, threshold=-1.0), [2, 1, 1, 1]),
        (Interval(ClassifierFreeGuidance(5.0), 0.25, 0.75), [1, 2, 2, 1]),
        (Scheduled(ClassifierFreeGuidance(5.0), [1.0, 5.0, 3.0, 1.0]), [1, 2, 2, 1]),
        (Scheduled(ClassifierFreeGuidance(5.0), "linear"), [2, 2, 2, 1]),
    ],
    ids=["adaptive", "interval", "scales", "line"],
)
def test_every_sampling_of_a_call_is_guided_from_its_beginning(rule: Guidance, evaluations: list[int]) -> None:
    with guide(again(), rule) as guided:
        assert ANIMATE.run(guided).isfinite().all()
    assert [record.evaluations for record in guided.trace] == 2 * evaluations
    assert [record.index for record in guided.trace] == 2 * [0, 1, 2, 3]


def test_samplings_of_different_lengths() -> None:
    rule = Noting()
    with guide(again(fast=True), rule) as guided:
        ANIMATE.run(guided)
    assert rule.seen == whole(2) + whole(4)


@pytest.mark.parametrize(
    ("scheduler", "total"), [(HeunDiscreteScheduler, 7), (KDPM2DiscreteScheduler, 7), (PNDMScheduler, 5)]
)
def test_a_timestep_that_is_evaluated_twice_begins_nothing(scheduler: Callable[..., Any], total: int) -> None:
    options = {"skip_prk_steps": True} if scheduler is PNDMScheduler else {}
    rule = Noting()
    with guide(again(scheduler=scheduler(**BETAS, **options)), rule) as guided:
        ANIMATE.run(guided)
    assert rule.seen == whole(total) * 2


def test_a_pipeline_that_says_too_few_evaluations_begins_nothing() -> None:
    pipe, rule = ANIMATE.build(), Noting()
    two = property(lambda self: 2, lambda self, count: None)
    pipe.__class__ = type(type(pipe).__name__, (type(pipe),), {"_num_timesteps": two})
    with guide(pipe, rule) as guided:
        ANIMATE.run(guided)
    assert [before for *_, before in rule.seen] == [0, 1, 2, 3]


def test_evaluations_left_out_at_the_end_are_none() -> None:
    """SDXL's ControlNet pipelines note how many steps there are before they leave out those after `denoising_end`."""
    make = lambda: sdxl(StableDiffusionXLControlNetPipeline, controlnet=parts.controlnet(**parts.SDXL))  # noqa: E731
    for pipe, given in ((seeded(make), {"image": picture(1)}), (seeded(sdxl), {})):
        rule = Noting()
        with guide(pipe, rule) as guided:
            guided("red apple", **given, **SMALL, num_inference_steps=6, denoising_end=0.5)
        assert len(rule.seen) in (2, 3)
        assert rule.seen == whole(len(rule.seen))


def test_windows_of_a_long_video() -> None:
    """They have several sizes, as APG's buffer has, and none makes as many evaluations as its timesteps are."""

    def encode(pipe: Any, prompt: Any, *_: Any, **__: Any) -> Any:
        both = (words(pipe, prompt), torch.ones(1, 5))
        return *both, *(-each if each is both[0] else each for each in both)

    methods = {"encode_prompt": encode}
    pipe = seeded(lambda: ltx(type("LTXI2VLongMultiPromptPipeline", (LTXI2VLongMultiPromptPipeline,), methods)))
    size = {"height": 32, "width": 32, "num_frames": 25, "temporal_tile_size": 16, "temporal_overlap": 4}
    rule = Noting()
    with guide(pipe, rule) as guided:
        made = guided("red apple", **size, num_inference_steps=4).frames
        windows = len(rule.seen) // 3
        assert windows > 1
        assert [(index, before) for index, _, before in rule.seen] == windows * [(0, 0), (1, 1), (2, 2)]
        guided.guidance = AdaptiveProjectedGuidance(5.0, momentum=-0.5)
        assert guided("red apple", **size, num_inference_steps=4).frames.shape == made.shape


def hinted(prompts: int, images: int) -> dict[str, Any]:
    return images22(prompts, images) | {"hint": states(prompts, 3 * 64, 64).view(prompts, 3, 64, 64)}


SHORTENED = (
    Family(
        "deepfloyd-if-img2img",
        lambda: deepfloyd(IFImg2ImgPipeline),
        "epsilon",
        fixed={"clean_caption": False, "image": picture(1), "strength": 0.5},
        output="pt",
    ),
    Family(
        "kandinsky22-controlnet-img2img",
        lambda: kandinsky22(KandinskyV22ControlnetImg2ImgPipeline, 8, hint=True),
        "epsilon",
        hinted,
        SMALL | {"image": picture(1), "strength": 0.5},
        output="pt",
        without=("prompt",),
    ),
)


@pytest.mark.parametrize("scheduler", [None, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("family", SHORTENED, ids=str)
def test_steps_that_a_strength_leaves_out_are_not_counted(family: Family, scheduler: Any) -> None:
    pipe, rule = family.build(), Noting()
    if scheduler is not None:  # which knows the index that it begins at, or knows it not, as the pipeline wants
        pipe.scheduler = scheduler()
    with guide(pipe, rule) as guided:
        family.run(guided, steps=6)
        assert rule.seen == whole(3)
        guided.guidance = Scheduled(ClassifierFreeGuidance(5.0), [5.0, 3.0, 1.0])
        family.run(guided, steps=6)
    assert [record.evaluations for record in guided.trace] == [2, 2, 1]
