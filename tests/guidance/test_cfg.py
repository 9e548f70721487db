import numpy as np
import pytest
import torch
from cases import SHAPES, predictions, step

from diffguide.guidance import ClassifierFreeGuidance
from diffguide.guidance.cfg import rescaled


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_the_pipelines_expression_bit_for_bit(shape, dtype):
    cond, uncond, latents = predictions(shape, dtype=dtype)
    guided, _ = ClassifierFreeGuidance(7.5).guide(cond, uncond, latents, step())
    assert guided.dtype == dtype
    assert torch.equal(guided, uncond + 7.5 * (cond - uncond))


def test_rescale_is_that_of_diffusers():
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    cond, uncond, latents = predictions((2, 4, 8, 8))
    guided, _ = ClassifierFreeGuidance(7.5, guidance_rescale=0.7).guide(cond, uncond, latents, step())
    expected = rescale_noise_cfg(uncond + 7.5 * (cond - uncond), cond, guidance_rescale=0.7)
    assert torch.allclose(guided, expected, atol=1e-6)


def test_rescale_of_what_has_no_variation_is_a_number():
    flat, (cond, *_) = torch.full((2, 4, 8, 8), 3.0), predictions((2, 4, 8, 8))
    assert torch.allclose(rescaled(flat, cond, 0.7), 0.3 * flat)
    assert torch.allclose(
        rescaled(cond, flat, 0.7), 0.3 * cond, atol=1e-3
    )  # the deviation of `flat` is 0 but for rounding
    assert torch.equal(rescaled(flat, cond, 0.0), flat)
    assert not rescaled(torch.zeros_like(cond), cond, 0.7).any()


def test_scale_one_needs_no_unconditional_prediction():
    assert not ClassifierFreeGuidance(1.0).needs_uncond(step())
    assert ClassifierFreeGuidance(1.01).needs_uncond(step())
    cond, _, latents = predictions((2, 4, 8, 8))
    assert torch.equal(ClassifierFreeGuidance(1.0).guide_cond(cond, latents, step()), cond)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), "7.5", None, True])
def test_scale_must_be_a_finite_number(scale):
    with pytest.raises(ValueError, match="guidance_scale must be a finite number"):
        ClassifierFreeGuidance(scale)
    with pytest.raises(ValueError, match="guidance_scale must be a finite number"):
        ClassifierFreeGuidance(2.0).with_scale(scale)


def test_a_scale_may_be_numpys():
    for scale in (np.arange(2, 5)[0], np.float32(2.0)):
        rule = ClassifierFreeGuidance(scale)
        assert (rule.guidance_scale, type(rule.guidance_scale)) == (2.0, float)


@pytest.mark.parametrize("phi", [-0.1, 1.1])
def test_rescale_is_a_share(phi):
    with pytest.raises(ValueError, match="between 0 and 1"):
        ClassifierFreeGuidance(7.5, guidance_rescale=phi)
