import math

import pytest
import torch
from cases import SHAPES, predictions, step

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance

KINDS = ["epsilon", "v_prediction", "sample", "flow"]


def algorithm_1(cond, uncond, w, eta, r, beta, average):
    """The paper's lines, float64, on denoised predictions; `average` is the momentum buffer, updated in place."""
    dims = tuple(range(1, cond.ndim))
    diff = cond - uncond + beta * average
    average.copy_(diff)
    if r > 0:
        diff = diff * torch.clamp(r / diff.square().sum(dims, keepdim=True).sqrt(), max=1)
    direction = cond / cond.square().sum(dims, keepdim=True).sqrt()
    parallel = (diff * direction).sum(dims, keepdim=True) * direction
    return cond + (w - 1) * (diff - parallel + eta * parallel)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("w", "eta", "r", "beta"), [(10, 0, 2.5, -0.75), (4, 0.3, 5, -0.5), (15, 0, 0, 0), (7, 1, 1, -0.3)]
)
def test_is_algorithm_1_over_several_steps(shape, kind, w, eta, r, beta):
    rule = AdaptiveProjectedGuidance(w, eta=eta, norm_threshold=r, momentum=beta)
    average, state = torch.zeros(shape, dtype=torch.float64), {}
    for index in range(4):
        cond, uncond, latents = predictions(shape, seed=index)
        here = step(kind, index, state, sigma=4.0 / (index + 1))
        a, b = here.to_space("denoised")
        denoised = [a * latents.double() + b * x.double() for x in (cond, uncond)]
        expected = (algorithm_1(*denoised, w, eta, r, beta, average) - a * latents.double()) / b
        guided, _ = rule.guide(cond, uncond, latents, here)
        assert torch.allclose(guided.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_in_prediction_space_it_is_what_diffusers_has(kind):
    guiders = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    buffer, state = guiders.MomentumBuffer(-0.5), {}
    rule = AdaptiveProjectedGuidance(8.0, eta=0.2, norm_threshold=2.5, space="prediction")
    for index in range(3):
        cond, uncond, latents = predictions((2, 4, 8, 8), seed=index)
        guided, _ = rule.guide(cond, uncond, latents, step(kind, index, state, sigma=4.0 / (index + 1)))
        theirs = guiders.normalized_guidance(cond, uncond, 8.0 - 1, buffer, 0.2, 2.5, use_original_formulation=True)
        assert torch.allclose(guided, theirs, atol=1e-4)
    denoised, _ = AdaptiveProjectedGuidance(8.0, eta=0.2, norm_threshold=2.5).guide(cond, uncond, latents, step(kind))
    assert (kind == "sample") == torch.allclose(denoised, rule.guide(cond, uncond, latents, step(kind))[0], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_neutral_settings_are_plain_guidance(kind):
    cond, uncond, latents = predictions((2, 4, 8, 8))
    guided, _ = AdaptiveProjectedGuidance(7.5, eta=1, norm_threshold=0, momentum=0).guide(
        cond, uncond, latents, step(kind)
    )
    expected, _ = ClassifierFreeGuidance(7.5).guide(cond, uncond, latents, step(kind))
    assert torch.allclose(guided, expected, atol=1e-5)


def test_momentum_zero_needs_no_memory():
    state = {}
    AdaptiveProjectedGuidance(7.5, momentum=0).guide(*predictions((2, 4, 8, 8)), step(state=state))
    assert not state


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_is_its_samples(shape):
    rule, together, alone = AdaptiveProjectedGuidance(9.0), {}, [{} for _ in range(shape[0])]
    for index in range(3):
        batch = predictions(shape, seed=index)
        guided, _ = rule.guide(*batch, step("v_prediction", index, together))
        for k in range(shape[0]):
            single, _ = rule.guide(*(x[k : k + 1] for x in batch), step("v_prediction", index, alone[k]))
            assert torch.allclose(guided[k : k + 1], single, atol=1e-5)


def test_default_cap_carries_over_between_resolutions():
    for side in (8, 32):
        cond, uncond, latents = predictions((1, 4, side, side))
        _, measured = AdaptiveProjectedGuidance(2.0, eta=1, momentum=0).guide(cond, uncond, latents, step("sample"))
        assert measured.numbers()["update"].sqrt().item() == pytest.approx(
            15 / 256 * math.sqrt(4 * side * side), rel=1e-4
        )


def test_an_absolute_cap_counts_over_the_default_one():
    cond, uncond, latents = predictions((1, 4, 8, 8))
    rule = AdaptiveProjectedGuidance(2.0, eta=1, norm_threshold=0.25, momentum=0)
    _, measured = rule.guide(cond, uncond, latents, step("sample"))
    assert measured.numbers()["update"].sqrt().item() == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_calculated_in_float32(dtype):
    cond, uncond, latents = predictions((2, 4, 8, 8), dtype=dtype)
    guided, _ = AdaptiveProjectedGuidance(9.0).guide(cond, uncond, latents, step())
    exact, _ = AdaptiveProjectedGuidance(9.0).guide(cond.float(), uncond.float(), latents.float(), step())
    assert guided.dtype == dtype
    assert torch.equal(guided, exact.to(dtype))


@pytest.mark.parametrize("scale", [0.0, 1e6])
def test_identical_predictions_and_zeros_stay_finite(scale):
    cond, _, latents = predictions((2, 4, 8, 8))
    for same in (cond, torch.zeros_like(cond)):
        guided, _ = AdaptiveProjectedGuidance(scale).guide(same, same, latents, step("sample"))
        assert torch.allclose(guided, same)


def test_prediction_without_a_denoised_space_is_refused():
    unknown = step()
    unknown.denoised = None
    with pytest.raises(ValueError, match="no way from its epsilon prediction to the denoised space"):
        AdaptiveProjectedGuidance(7.5).guide(*predictions((1, 4, 8, 8)), unknown)


def test_presets_are_those_of_the_paper():
    sdxl = AdaptiveProjectedGuidance.from_preset("sdxl", guidance_scale=12)
    assert (sdxl.guidance_scale, sdxl.norm_threshold, sdxl.momentum, sdxl.eta) == (12, 15, -0.5, 0)
    with pytest.raises(ValueError, match="has no preset named 'sd9'"):
        AdaptiveProjectedGuidance.from_preset("sd9")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": -1}, "inside"),
        ({"momentum": 1.5}, "inside"),
        ({"eta": float("nan")}, "eta must be a finite number"),
        ({"norm_threshold": -1}, "must not be negative"),
        ({"norm_per_element": -1}, "must not be negative"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveProjectedGuidance(7.5, **options)


def test_a_last_step_without_noise_is_taken_in_prediction_space():
    rule, state = AdaptiveProjectedGuidance(5.0), {}
    rule.guide(*predictions((1, 4, 8, 8)), step("flow", 0, state))
    here = step("flow", 1, state)
    here.denoised, here.noise = (1.0, -0.0), (1.0, 1.0)
    guided, _ = rule.guide(*predictions((1, 4, 8, 8), seed=1), here)
    assert guided.isfinite().all()
