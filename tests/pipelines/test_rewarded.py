"""Rewards in real pipelines: what is emitted is better, what is off is native, and the bound holds."""

from typing import Any

import pytest
import torch
from diffusers import LCMScheduler
from tiny import BETAS
from tiny import FAMILIES as TABLE
from tiny_family import Family
from tiny_single import SINGLE
from torch import Tensor

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance, Interval, RewardGuidance
from diffguide.pipelines import guide, load_pipeline

NAMES = ("sd", "sdxl", "sd3", "flux", "qwen", "lcm", "lcm-img2img", "flux-control", "sana-sprint")
FAMILIES = [family for family in (*TABLE, *SINGLE) if family.name in NAMES]
TARGET = (0.8, 0.3, 0.5)


def mean_colour(images: Tensor) -> Tensor:
    return -(images.mean((2, 3)) - images.new_tensor(TARGET)).square().sum(1)


def conditional(family: Family) -> dict[str, Any]:
    return {} if family in SINGLE else {family.scale: family.off}


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_what_is_emitted_is_better(family: Family) -> None:
    pipe = family.build()
    native = family.run(pipe, output_type="pt", **conditional(family))
    with guide(pipe, RewardGuidance(mean_colour, 0.0)) as guided:
        assert torch.equal(family.run(guided, output_type="pt"), native)
        guided.guidance = RewardGuidance(mean_colour, 0.3)
        moved = family.run(guided, output_type="pt")
        assert torch.equal(family.run(guided, output_type="pt"), moved)
        assert [record.evaluations for record in guided.trace] == [1] * len(guided.trace)
    assert (mean_colour(moved) > mean_colour(native)).all()
    assert torch.equal(family.run(pipe, output_type="pt", **conditional(family)), native)
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert all(p.requires_grad and p.grad is None for module in modules for p in module.parameters())


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name in ("sd", "flux", "lcm")], ids=str)
def test_the_bound_holds_at_every_step(family: Family) -> None:
    """KL of two Gaussians of the same covariance, from the kernel and the move that the trace has."""
    bound = 0.05
    with guide(family.build(), RewardGuidance(mean_colour, 5.0, kl=bound, floor=0.03)) as guided:
        family.run(guided, prompts=2)
        records = list(guided.trace)
    for record in records:
        a, s = record.kernel[0], max(record.kernel[1], 0.03)
        divergence = (a * record.move_norm).square() / (2 * s**2)
        assert (divergence <= bound * 1.001).all()
        torch.testing.assert_close(record.divergence, divergence, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_after_another_rule_and_through_the_denoiser(name: str) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    pipe = family.build()
    plain = family.run_native(pipe, 5.0, output_type="pt")
    with guide(pipe, RewardGuidance(mean_colour, 0.3, rule=ClassifierFreeGuidance(5.0))) as guided:
        after = family.run(guided, output_type="pt")
        assert guided.trace[0].evaluations == 2
        guided.guidance = Interval(RewardGuidance(mean_colour, 0.3, rule=AdaptiveProjectedGuidance(5.0)), stop=0.5)
        assert family.run(guided, output_type="pt").isfinite().all()
    assert (mean_colour(after) > mean_colour(plain)).all()
    native = family.run(pipe, output_type="pt", **conditional(family))
    with guide(pipe, RewardGuidance(mean_colour, 0.3, through_denoiser=True)) as guided:
        through = family.run(guided, output_type="pt")
    assert (mean_colour(through) > mean_colour(native)).all()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["emoji-sd", "emoji-flow"])
def test_embedded_models_in_few_steps(model: str, trained: Any) -> None:
    pipe = load_pipeline(model, device="cpu", progress_bar=False)
    if model == "emoji-sd":
        pipe.scheduler = LCMScheduler(**BETAS, prediction_type=pipe.scheduler.config.prediction_type, clip_sample=False)

    def picture(pipe: Any, **call: Any) -> Tensor:
        return pipe("dog", num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="pt", **call)[
            0
        ]

    native = picture(pipe, guidance_scale=1.0)
    with guide(pipe, RewardGuidance(mean_colour, 0.0)) as guided:
        assert torch.equal(picture(guided), native)
        guided.guidance = RewardGuidance(mean_colour, 0.3)
        moved = picture(guided)
    assert mean_colour(moved) > mean_colour(native)
