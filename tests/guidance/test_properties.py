"""What holds for every rule, on predictions that nobody chose."""

import pytest
import torch
from cases import RULES, SHAPES, predictions, step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffguide.guidance import (
    AdaptiveGuidance,
    AdaptiveProjectedGuidance,
    BetaClassifierFreeGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeGuidancePlusPlus,
    ClassifierFreeZeroStarGuidance,
    FrequencyDecoupledGuidance,
    Interval,
    Modifier,
    NormMatching,
    RatioAwareAdaptiveGuidance,
    Rescale,
    Scheduled,
    TangentialClassifierFreeGuidance,
)

KINDS = ["epsilon", "v_prediction", "sample", "flow"]
SEEDS = st.integers(0, 2**31)
SCALES = st.floats(-2, 20, allow_nan=False)
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(4, 9), st.integers(4, 9))
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])

IDENTITIES = [
    lambda w: AdaptiveProjectedGuidance(w, eta=1, norm_threshold=0, momentum=0),
    lambda w: RatioAwareAdaptiveGuidance(w, alpha=0),
    lambda w: AdaptiveGuidance(w, threshold=2.0),
    lambda w: AdaptiveGuidance(w, threshold=2.0, space="denoised"),
    lambda w: FrequencyDecoupledGuidance(w, low_scale=w),
    lambda w: Rescale(ClassifierFreeGuidance(w), 0.0),
    lambda w: Interval(ClassifierFreeGuidance(w)),
    lambda w: Scheduled(ClassifierFreeGuidance(w), lambda progress: w),
]


@pytest.mark.parametrize("make", IDENTITIES)
@pytest.mark.parametrize("kind", KINDS)
@few
@given(seed=SEEDS, scale=SCALES, shape=SIZES)
def test_identity_settings_are_plain_guidance(make, kind, seed, scale, shape):
    cond, uncond, latents = predictions(shape, seed)
    guided, _ = make(scale).guide(cond, uncond, latents, step(kind, sigma=0.3 + seed % 7))
    assert torch.allclose(guided, uncond + scale * (cond - uncond), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_batch_of_n_is_n_batches_of_one(rule, shape, kind):
    if isinstance(rule, FrequencyDecoupledGuidance) and len(shape) < 4:
        pytest.skip("frequencies are those of images")
    together, alone = {}, [{} for _ in range(shape[0])]
    for index in (1, 2):
        batch = predictions(shape, index)
        guided, _ = rule.guide(*batch, step(kind, index, together))
        for k in range(shape[0]):
            single, _ = rule.guide(*(x[k : k + 1] for x in batch), step(kind, index, alone[k]))
            assert torch.allclose(guided[k : k + 1], single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("kind", ["v_prediction", "flow"])
def test_each_sample_may_have_a_noise_level_of_its_own(rule, kind):
    batch, sigmas = predictions((3, 4, 8, 8)), (0.4, 1.7, 3.0)
    alone = [step(kind, 1, sigma=sigma) for sigma in sigmas]
    together = step(kind, 1)
    for space in ("denoised", "noise", "kernel"):
        pairs = zip(*(getattr(one, space) for one in alone))
        setattr(together, space, tuple(torch.tensor(numbers) for numbers in pairs))
    guided, _ = rule.guide(*batch, together)
    for k, one in enumerate(alone):
        single, _ = rule.guide(*(x[k : k + 1] for x in batch), one)
        assert torch.allclose(guided[k : k + 1], single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("size", [1, 2])
def test_a_gradient_goes_through_two_steps(rule, size):
    first, second = (predictions((size, 2, 8, 8), seed, torch.float64) for seed in (1, 2))
    for tensor in (*first[:2], *second[:2]):
        tensor.requires_grad_()

    def total(cond, uncond):
        state = {}
        earlier, _ = rule.guide(cond, uncond, first[2], step("v_prediction", 1, state))
        later, _ = rule.guide(second[0], second[1], second[2], step("v_prediction", 2, state))
        return (earlier * second[2]).sum() + (later * first[2]).sum()

    direction = predictions((size, 2, 8, 8), 3, torch.float64)
    gradients = torch.autograd.grad(total(*first[:2]), first[:2])
    along = sum((gradient * vector).sum() for gradient, vector in zip(gradients, direction))
    with torch.no_grad():
        ends = [total(*(x + sign * 1e-6 * vector for x, vector in zip(first[:2], direction))) for sign in (1, -1)]
    assert along == pytest.approx((ends[0] - ends[1]).item() / 2e-6, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("size", [1, 2])
def test_equal_predictions_have_a_gradient(rule, size):
    """As the empty prompt in a batch has them."""
    cond, uncond, latents = predictions((size, 4, 8, 8))
    uncond[0] = cond[0]
    cond.requires_grad_(), uncond.requires_grad_()
    guided, _ = rule.guide(cond, uncond, latents, step("v_prediction", 1))
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad((guided * latents).sum(), [cond, uncond]))


EQUIVARIANT = [
    ClassifierFreeGuidance(6.0, guidance_rescale=0.7),
    AdaptiveProjectedGuidance(6.0, norm_threshold=0),
    RatioAwareAdaptiveGuidance(6.0),
    AdaptiveGuidance(6.0),
    ClassifierFreeZeroStarGuidance(6.0),
    ClassifierFreeGuidancePlusPlus(6.0),
    TangentialClassifierFreeGuidance(6.0),
    FrequencyDecoupledGuidance(6.0),
    NormMatching(ClassifierFreeGuidance(6.0)),
    BetaClassifierFreeGuidance(6.0, gamma=0.0),
]


@pytest.mark.parametrize("rule", EQUIVARIANT, ids=repr)
@few
@given(seed=SEEDS, factor=st.floats(0.01, 100))
def test_what_is_twice_as_large_is_guided_twice_as_far(rule, seed, factor):
    tensors = predictions((2, 4, 8, 8), seed)
    here, there = step("v_prediction", 1), step("v_prediction", 1)
    expected = factor * rule.guide(*tensors, here)[0]
    scaled = rule.guide(*(factor * x for x in tensors), there)[0]
    assert torch.allclose(scaled, expected, rtol=1e-3, atol=1e-4 * factor)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_identical_and_zero_predictions(rule, kind):
    cond, _, latents = predictions((2, 4, 8, 8))
    nothing = torch.zeros_like(cond)
    for pair in ((cond, cond.clone()), (cond, nothing), (nothing, cond)):
        guided, _ = rule.guide(*pair, latents, step(kind, 1))
        assert guided.isfinite().all()
    guided, _ = rule.guide(nothing, nothing.clone(), nothing.clone(), step(kind, 1))
    assert torch.equal(guided, nothing)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_an_infinity_stays_in_its_sample(rule):
    cond, uncond, latents = predictions((2, 4, 8, 8))
    expected, _ = rule.guide(cond, uncond, latents, step(index=1))
    broken = uncond.clone()
    broken[0, 0, 0, 0] = torch.inf
    guided, _ = rule.guide(cond, broken, latents, step(index=1))
    assert torch.allclose(guided[1], expected[1])


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_in_and_out(rule, dtype):
    tensors = predictions((2, 4, 8, 8), dtype=dtype)
    guided, _ = rule.guide(*tensors, step(index=1))
    exact, _ = rule.guide(*(x.float() for x in tensors), step(index=1))
    assert guided.dtype == dtype
    if isinstance(rule, (ClassifierFreeGuidance, Modifier)):  # in the pipeline's own dtype, to be its own guidance
        assert torch.allclose(guided.float(), exact, rtol=0.02, atol=0.05 * float(exact.abs().max()))
    else:
        assert torch.equal(guided, exact.to(dtype))
