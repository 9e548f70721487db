import pytest
import torch
from cases import SHAPES, predictions, step

from diffguide.guidance import ClassifierFreeGuidance, RatioAwareAdaptiveGuidance


@pytest.mark.parametrize("shape", SHAPES)
def test_is_equations_5_and_6_per_sample(shape):
    cond, uncond, latents = predictions(shape)
    guided, _ = RatioAwareAdaptiveGuidance(10.0, alpha=3.0).guide(cond, uncond, latents, step("flow"))
    for k in range(shape[0]):
        c, u = cond[k].double(), uncond[k].double()
        rho = (c - u).flatten().norm() / u.flatten().norm()
        expected = u + (1 + 9 * torch.exp(-3 * rho)) * (c - u)
        assert torch.allclose(guided[k].double(), expected, atol=1e-5)


def test_is_diffusers_magnitude_aware_guidance():
    from diffusers.guiders.magnitude_aware_guidance import MagnitudeAwareGuidance

    cond, uncond, latents = predictions((3, 16, 32))
    peer = MagnitudeAwareGuidance(guidance_scale=10.0, alpha=8.0)
    guided, _ = RatioAwareAdaptiveGuidance(10.0, alpha=8.0).guide(cond, uncond, latents, step("flow"))
    assert torch.allclose(guided, peer.forward(cond, uncond).pred, atol=1e-5)


def test_alpha_zero_is_plain_guidance():
    batch = predictions((2, 4, 8, 8))
    guided, _ = RatioAwareAdaptiveGuidance(6.0, alpha=0).guide(*batch, step("flow"))
    expected, _ = ClassifierFreeGuidance(6.0).guide(*batch, step("flow"))
    assert torch.allclose(guided, expected, atol=1e-5)


def test_zeros_and_identical_predictions_stay_finite():
    cond, _, latents = predictions((2, 4, 8, 8))
    for pair in ((cond, cond), (torch.zeros_like(cond),) * 2, (cond, torch.zeros_like(cond))):
        for alpha in (8.0, 0.0):
            guided, _ = RatioAwareAdaptiveGuidance(10.0, alpha).guide(*pair, latents, step("flow"))
            assert guided.isfinite().all()


def test_presets_and_bad_options():
    assert RatioAwareAdaptiveGuidance.from_preset("authors-sd3.5").alpha == 12
    with pytest.raises(ValueError, match="has no preset named 'x'"):
        RatioAwareAdaptiveGuidance.from_preset("x")
    with pytest.raises(ValueError, match="alpha must not be negative"):
        RatioAwareAdaptiveGuidance(10.0, alpha=-1)
