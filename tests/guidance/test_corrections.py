import pytest
import torch
from cases import SHAPES, predictions, step

from diffguide.guidance import AdaptiveGuidance, ClassifierFreeGuidance, Interval, NormMatching
from diffguide.guidance.corrections import EnergyPreserving, Renorm

KINDS = ["epsilon", "v_prediction", "sample", "flow"]


def plain(cond, uncond, w=7.5):
    return uncond + w * (cond - uncond)


def column(values, like):
    return values.view(-1, *[1] * (like.ndim - 1))


def test_norm_matching_is_qwen_images():
    cond, uncond, latents = predictions((3, 16, 32))
    guided, _ = NormMatching(ClassifierFreeGuidance(4.0)).guide(cond, uncond, latents, step("flow"))
    combined = uncond + 4.0 * (cond - uncond)
    expected = combined * (torch.norm(cond, dim=-1, keepdim=True) / torch.norm(combined, dim=-1, keepdim=True))
    assert torch.equal(guided, expected)


def test_skips_what_the_rule_inside_skips():
    rule = NormMatching(ClassifierFreeGuidance(1.0))
    cond, _, latents = predictions((3, 16, 32))
    assert not rule.needs_uncond(step())
    assert torch.equal(rule.guide_cond(cond, latents, step()), cond)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("limit", [0.8, 1.0, 1.6, 100.0])
def test_renorm_is_z_images(shape, limit):
    cond, uncond, latents = predictions(shape)
    guided, _ = Renorm(ClassifierFreeGuidance(7.5), limit).guide(cond, uncond, latents, step("flow"))
    for k in range(shape[0]):
        expected = plain(cond[k].double(), uncond[k].double())
        most = limit * torch.linalg.vector_norm(cond[k].double())
        norm = torch.linalg.vector_norm(expected)
        if norm > most:
            expected = expected * (most / norm)
        assert torch.allclose(guided[k].double(), expected, atol=1e-4)


def test_renorm_by_token_is_longcats():
    cond, uncond, latents = predictions((3, 16, 32))
    guided, _ = Renorm(ClassifierFreeGuidance(4.0), dim=-1).guide(cond, uncond, latents, step("flow"))
    expected = plain(cond, uncond, 4.0)
    scale = cond.norm(dim=-1, keepdim=True) / (expected.norm(dim=-1, keepdim=True) + 1e-8)
    assert torch.allclose(guided, expected * scale.clamp(min=0, max=1), atol=1e-5)


def test_renorm_leaves_a_conditional_step_as_it_is():
    cond, _, latents = predictions((2, 4, 8, 8))
    for rule in (
        Renorm(ClassifierFreeGuidance(1.0), 0.8),
        Interval(Renorm(ClassifierFreeGuidance(4.0), 0.8), stop=0.5),
    ):
        assert not rule.needs_uncond(step(index=2))
        assert torch.equal(rule.guide_cond(cond, latents, step(index=2)), cond)


def test_renorm_leaves_those_of_a_batch_alone_that_are_conditional_already():
    cond, uncond, latents = predictions((2, 4, 8, 8))
    uncond[0] = cond[0]  # crosses at the first step, the other one never
    rule, state = Renorm(AdaptiveGuidance(4.0, threshold=0.999), 0.8), {}
    rule.guide(cond, uncond, latents, step(index=0, state=state))
    assert rule.needs_uncond(step(index=1, state=state))
    guided, _ = rule.guide(cond, uncond, latents, step(index=1, state=state))
    assert torch.equal(guided[0], cond[0])
    assert guided[1].norm() <= 0.8 * cond[1].norm() * (1 + 1e-6)


def test_a_limit_that_is_not_reached_is_plain_guidance():
    batch = predictions((2, 4, 8, 8))
    guided, _ = Renorm(ClassifierFreeGuidance(7.5), 1e3).guide(*batch, step())
    assert torch.equal(guided, plain(*batch[:2]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentiles", [None, (45, 55), (10, 60)])
def test_energy_is_that_of_the_conditional_x0(shape, kind, percentiles):
    cond, uncond, latents = predictions(shape, dtype=torch.float64)
    here = step(kind)
    a, b = here.to_space("denoised")
    own, x0 = a * latents + b * cond, a * latents + b * plain(cond, uncond)

    def energy(x):
        x = x.flatten(1)
        if percentiles is None:
            return x.square().sum(1)
        low, high = (percentile / 100 for percentile in percentiles)
        low, high = torch.quantile(x, low, dim=1, keepdim=True), torch.quantile(x, high, dim=1, keepdim=True)
        return torch.where((x >= low) & (x <= high), x.square(), 0.0).sum(1)

    expected = x0 * column((energy(own) / energy(x0)).sqrt(), x0)
    rule = EnergyPreserving(ClassifierFreeGuidance(7.5), percentiles)
    guided, _ = rule.guide(cond, uncond, latents, here)
    assert torch.allclose(a * latents + b * guided, expected, atol=1e-9)
    single, _ = rule.guide(cond.float(), uncond.float(), latents.float(), here)
    assert torch.allclose(single.double(), guided, atol=1e-3)


@pytest.mark.parametrize("correction", [NormMatching, Renorm, EnergyPreserving])
def test_identical_predictions_and_zeros_stay_as_they_are(correction):
    cond, _, latents = predictions((2, 4, 8, 8))
    for same in (cond, torch.zeros_like(cond)):
        guided, _ = correction(ClassifierFreeGuidance(7.5)).guide(same, same, latents, step())
        assert torch.allclose(guided, same, atol=1e-5)


@pytest.mark.parametrize("correction", [NormMatching, Renorm, EnergyPreserving])
def test_a_guided_prediction_of_zero_stays_finite(correction):
    cond, _, latents = predictions((2, 4, 8, 8))
    guided = correction(ClassifierFreeGuidance(7.5)).correct(torch.zeros_like(cond), cond, latents, step("sample"))
    assert not guided.any()


@pytest.mark.parametrize("correction", [NormMatching, Renorm, EnergyPreserving])
def test_goes_around_a_rule(correction):
    with pytest.raises(ValueError, match=f"{correction.__name__} goes around a rule"):
        correction(4.0)


def test_bad_options():
    with pytest.raises(ValueError, match="limit must be above 0"):
        Renorm(ClassifierFreeGuidance(7.5), 0)
    with pytest.raises(ValueError, match="percentiles must be"):
        EnergyPreserving(ClassifierFreeGuidance(7.5), (55, 45))


def test_corrections_act_in_one_order_however_they_are_written():
    batch = predictions((3, 16, 32))
    one, _ = EnergyPreserving(NormMatching(ClassifierFreeGuidance(7.5))).guide(*batch, step("flow"))
    other, _ = NormMatching(EnergyPreserving(ClassifierFreeGuidance(7.5))).guide(*batch, step("flow"))
    assert torch.equal(one, other)


@pytest.mark.parametrize("correction", [NormMatching, Renorm])
def test_a_dimension_that_is_not_there_is_named(correction):
    cond, uncond, latents = predictions((2, 4, 8, 8))
    with pytest.raises(ValueError, match="dim=7 is not one of the 4 dimensions"):
        correction(ClassifierFreeGuidance(5.0), dim=7).guide(cond, uncond, latents, step())
