import pytest
import torch
from cases import SHAPES, predictions, step

from diffguide.guidance import ClassifierFreeGuidance
from diffguide.guidance.thresholding import DynamicThresholding, ReflectingWall, quantile

KINDS = ["epsilon", "v_prediction", "sample", "flow"]


def plain(cond, uncond):
    return uncond + 7.5 * (cond - uncond)


def denoised(prediction, latents, here):
    a, b = here.to_space("denoised")
    return a * latents + b * prediction


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentile", [0.5, 0.995, 1.0])
def test_is_imagens_thresholding_of_x0(shape, kind, percentile):
    cond, uncond, latents = predictions(shape, dtype=torch.float64)
    here, rule = step(kind), DynamicThresholding(ClassifierFreeGuidance(7.5), percentile)
    x0 = denoised(plain(cond, uncond), latents, here).flatten(1)
    s = torch.quantile(x0.abs(), percentile, dim=1, keepdim=True).clamp(min=1)
    expected = (torch.clamp(x0, -s, s) / s).view(shape)
    guided, _ = rule.guide(cond, uncond, latents, here)
    assert torch.allclose(denoised(guided, latents, here), expected, atol=1e-9)
    assert expected.abs().max() <= 1
    single, _ = rule.guide(cond.float(), uncond.float(), latents.float(), here)
    assert torch.allclose(single.double(), guided, atol=1e-3)


def test_is_diffusers_thresholding():
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=100.0)
    cond, uncond, latents = predictions((2, 3, 8, 8))
    guided, _ = DynamicThresholding(ClassifierFreeGuidance(7.5), 0.9).guide(cond, uncond, latents, step("sample"))
    assert torch.allclose(guided, scheduler._threshold_sample(plain(cond, uncond)), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_wall_folds_x0(shape, kind):
    cond, uncond, latents = predictions(shape, dtype=torch.float64)
    here = step(kind)
    expected = denoised(plain(cond, uncond), latents, here)
    while (expected.abs() > 1).any():  # reflected at one wall, then at the other
        expected = torch.where(expected > 1, 2 - expected, expected)
        expected = torch.where(expected < -1, -2 - expected, expected)
    guided, _ = ReflectingWall(ClassifierFreeGuidance(7.5)).guide(cond, uncond, latents, here)
    assert torch.allclose(denoised(guided, latents, here), expected, atol=1e-9)


@pytest.mark.parametrize("correction", [DynamicThresholding, ReflectingWall])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_inside_the_bounds_are_plain_guidance(correction, kind):
    here = step(kind)
    a, b = here.to_space("denoised")
    x0, noise, latents = predictions((2, 3, 8, 8))
    cond = (0.2 * x0 - a * latents) / b
    uncond = cond + 0.01 * (noise - x0)
    guided, _ = correction(ClassifierFreeGuidance(7.5)).guide(cond, uncond, latents, here)
    assert denoised(plain(cond, uncond), latents, here).abs().max() < 1
    assert torch.equal(guided, plain(cond, uncond))


def test_a_step_without_the_unconditional_pass_is_bounded_too():
    cond, _, latents = predictions((2, 3, 8, 8))
    rule = DynamicThresholding(ClassifierFreeGuidance(1.0))
    assert not rule.needs_uncond(step("sample"))
    assert rule.guide_cond(3 * cond, latents, step("sample")).abs().max() <= 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.995, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
@pytest.mark.parametrize("decimals", [8, 0])
def test_quantile_is_torchs(share, count, decimals):
    x = torch.randn(3, 1, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round(
        decimals=decimals
    )
    expected = torch.quantile(x.flatten(1), share, dim=1).view(3, 1, 1)
    assert torch.allclose(quantile(x, share), expected, atol=1e-12)


def test_quantile_of_more_elements_than_torch_takes():
    x = torch.arange(2**24 + 1, dtype=torch.float64).flip(0).view(1, -1)
    assert quantile(x, 0.25).item() == 2**22


def test_percentile_is_a_share():
    for percentile in (0, 1.5, 99.5):
        with pytest.raises(ValueError, match="percentile must be a share"):
            DynamicThresholding(ClassifierFreeGuidance(7.5), percentile)
