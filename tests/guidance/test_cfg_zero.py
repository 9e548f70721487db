from dataclasses import replace

import pytest
import torch
from cases import SHAPES, predictions, step

from diffguide.guidance import ClassifierFreeGuidance, Trace
from diffguide.guidance.cfg_zero import ClassifierFreeZeroStarGuidance


def later(kind="flow"):
    return step(kind, index=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_is_the_papers_formula_on_the_prediction_itself(shape, kind):
    cond, uncond, latents = predictions(shape)
    guided, _ = ClassifierFreeZeroStarGuidance(7.5).guide(cond, uncond, latents, later(kind))
    for k in range(shape[0]):
        c, u = cond[k].double(), uncond[k].double()
        s = (c * u).sum() / (u * u).sum()
        assert torch.allclose(guided[k].double(), s * u + 7.5 * (c - s * u), atol=1e-5)


def test_is_diffusers_scale():
    from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale

    cond, uncond, latents = predictions((3, 16, 32))
    scaled = uncond * cfg_zero_star_scale(cond.flatten(1), uncond.flatten(1)).view(-1, 1, 1)
    guided, _ = ClassifierFreeZeroStarGuidance(4.0).guide(cond, uncond, latents, later())
    assert torch.allclose(guided, scaled + 4 * (cond - scaled), atol=1e-5)


def test_is_plain_guidance_where_the_difference_is_at_right_angles_to_uncond():
    cond, uncond, latents = predictions((2, 4, 8, 8), dtype=torch.float64)
    d, u = (cond - uncond).flatten(1), uncond.flatten(1)
    d = d - ((d * u).sum(1) / (u * u).sum(1)).unsqueeze(1) * u
    cond = uncond + d.view_as(uncond)
    guided, _ = ClassifierFreeZeroStarGuidance(7.5).guide(cond, uncond, latents, later())
    expected, _ = ClassifierFreeGuidance(7.5).guide(cond, uncond, latents, later())
    assert torch.allclose(guided, expected, atol=1e-12)


def test_predictions_that_nearly_agree_keep_their_difference():
    cond, noise, latents = predictions((2, 4, 8, 8), dtype=torch.float64)
    cond, uncond, latents = (x.float().double() for x in (cond, cond + 1e-5 * noise, latents))
    exact, _ = ClassifierFreeZeroStarGuidance(7.5).guide(cond, uncond, latents, later())
    single, _ = ClassifierFreeZeroStarGuidance(7.5).guide(cond.float(), uncond.float(), latents.float(), later())
    assert (single - exact).abs().max() < 1e-6  # the update is 6.5e-5


@pytest.mark.parametrize(("option", "zeroed"), [(None, 1), (0, 0), (2, 2)])
def test_first_velocities_are_zero_and_need_one_evaluation(option, zeroed):
    rule, (cond, uncond, latents) = ClassifierFreeZeroStarGuidance(7.5, option), predictions((2, 4, 8, 8))
    for index in range(3):
        here = replace(step("flow", index), total=3)
        assert rule.needs_uncond(here) == (index >= zeroed)
        guided, _ = rule.guide(cond, uncond, latents, here)
        assert bool(guided.any()) == (index >= zeroed)
        if index < zeroed:
            trace, here = Trace(), replace(step("flow", index), total=3)
            assert torch.equal(rule.guide_cond(cond, latents, here), torch.zeros_like(cond))
            trace.append(here, 1, 2, None)
            assert trace[0].decision == ["zeroed", "zeroed"]


@pytest.mark.parametrize(("sigma", "zeroed"), [(1.0, True), (0.97, True), (0.6, False)])
def test_a_sampling_that_begins_with_a_picture_is_not_zeroed_unless_asked(sigma, zeroed):
    here = replace(step("flow"), sigma=sigma, total=2)
    assert ClassifierFreeZeroStarGuidance(7.5).needs_uncond(here) != zeroed
    assert not ClassifierFreeZeroStarGuidance(7.5, zero_init_steps=1).needs_uncond(here)


def test_the_only_evaluation_of_a_sampling_is_not_zeroed_unless_asked():
    here = replace(step("flow"), sigma=1.0, total=1)
    assert ClassifierFreeZeroStarGuidance(7.5).needs_uncond(here)
    assert not ClassifierFreeZeroStarGuidance(7.5, zero_init_steps=1).needs_uncond(here)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_other_models_are_not_zeroed(kind):
    assert ClassifierFreeZeroStarGuidance(7.5).needs_uncond(step(kind))
    assert ClassifierFreeZeroStarGuidance(7.5, zero_init_steps=0).needs_uncond(step(kind))
    with pytest.raises(ValueError, match=f"zero {kind} prediction is not"):
        ClassifierFreeZeroStarGuidance(7.5, zero_init_steps=1).needs_uncond(step(kind))


def test_scale_one_is_conditional_after_the_zeroed_steps():
    rule, (cond, _, latents) = ClassifierFreeZeroStarGuidance(1.0), predictions((2, 4, 8, 8))
    assert not rule.needs_uncond(later())
    assert torch.equal(rule.guide_cond(cond, latents, later()), cond)


@pytest.mark.parametrize("steps", [-1, 1.5, True])
def test_steps_are_counted(steps):
    with pytest.raises(ValueError, match="zero_init_steps must be a whole number"):
        ClassifierFreeZeroStarGuidance(7.5, steps)
