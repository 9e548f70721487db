import pytest
import torch
from cases import SHAPES, predictions, step

from diffguide.guidance import ClassifierFreeGuidance
from diffguide.guidance.tcfg import TangentialClassifierFreeGuidance


def papers(cond, uncond, w):
    """The paper's lines on one sample, by singular value decomposition in float64."""
    c, u = cond.double().flatten(), uncond.double().flatten()
    *_, v = torch.linalg.svd(torch.stack([c, u]), full_matrices=False)
    damped = (u @ v[0]) * v[0]
    return (damped + w * (c - damped)).view_as(cond)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize("ratio", [0.3, 1.0, 4.0])
def test_is_the_decomposition_of_the_prediction_itself(shape, kind, ratio):
    cond, uncond, latents = predictions(shape)
    uncond = ratio * uncond
    guided, _ = TangentialClassifierFreeGuidance(7.5).guide(cond, uncond, latents, step(kind))
    for k in range(shape[0]):
        assert torch.allclose(guided[k].double(), papers(cond[k], uncond[k], 7.5), atol=2e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_is_the_decomposition_for_unrelated_and_for_opposed_predictions(sign):
    cond, _, uncond = predictions((3, 4, 8, 8))  # latents serve as an uncond that has nothing to do with cond
    uncond = 0.8 * uncond - 0.5 * sign * cond
    guided, _ = TangentialClassifierFreeGuidance(7.5).guide(cond, uncond, cond, step())
    for k in range(3):
        assert torch.allclose(guided[k].double(), papers(cond[k], uncond[k], 7.5), atol=2e-5)


def test_is_diffusers_function():
    from diffusers.guiders.tangential_classifier_free_guidance import normalized_guidance

    cond, uncond, latents = predictions((3, 16, 32))
    guided, _ = TangentialClassifierFreeGuidance(5.0).guide(cond, uncond, latents, step())
    assert torch.allclose(guided, normalized_guidance(cond, uncond, 5.0), atol=1e-4)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.7, -0.6])
def test_parallel_predictions_are_plain_guidance(factor):
    cond, _, latents = predictions((2, 4, 8, 8))
    guided, _ = TangentialClassifierFreeGuidance(7.5).guide(cond, factor * cond, latents, step())
    expected, _ = ClassifierFreeGuidance(7.5).guide(cond, factor * cond, latents, step())
    assert torch.allclose(guided, expected, atol=2e-5)


def test_predictions_that_nearly_agree_keep_their_difference():
    cond, noise, latents = predictions((2, 4, 8, 8), dtype=torch.float64)
    cond, uncond, latents = (x.float().double() for x in (cond, cond + 1e-5 * noise, latents))
    guided, _ = TangentialClassifierFreeGuidance(7.5).guide(cond.float(), uncond.float(), latents.float(), step())
    for k in range(2):
        assert (guided[k] - papers(cond[k], uncond[k], 7.5)).abs().max() < 1e-6  # the update is 6.5e-5


def test_no_conditional_prediction_at_all():
    cond, uncond, latents = predictions((2, 4, 8, 8))
    guided, _ = TangentialClassifierFreeGuidance(7.5).guide(torch.zeros_like(cond), uncond, latents, step())
    assert torch.allclose(guided, -6.5 * uncond, atol=1e-5)


def test_scale_one_needs_no_unconditional_prediction():
    assert not TangentialClassifierFreeGuidance(1.0).needs_uncond(step())
    cond, uncond, latents = predictions((2, 4, 8, 8))
    guided, _ = TangentialClassifierFreeGuidance(1.0).guide(cond, uncond, latents, step())
    assert torch.equal(guided, cond)
