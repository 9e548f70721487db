import pytest
import torch
from cases import SHAPES, predictions, step

from diffguide.guidance import AdaptiveGuidance, ClassifierFreeGuidance

KINDS = ["epsilon", "v_prediction", "sample", "flow"]


def noise(latents, prediction, here):
    p, q = here.to_space("noise")
    return p * latents.double() + q * prediction.double()


def cosines(batch, here):
    cond, uncond, latents = batch
    c, u = (noise(latents, x, here).flatten(1) for x in (cond, uncond))
    return torch.cosine_similarity(c, u)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_crosses_on_the_cosine_of_the_noise_per_sample(shape, kind):
    batch, here = predictions(shape), step(kind)
    gamma = cosines(batch, here)
    AdaptiveGuidance(7.5, threshold=float(gamma.mean())).guide(*batch, here)
    assert torch.equal(here.state["crossed"].flatten(), gamma >= gamma.mean())
    assert here.state["crossed"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_crossing_step_is_guided_and_the_next_is_not_made(kind):
    batch, here = predictions((2, 4, 8, 8)), step(kind)
    rule = AdaptiveGuidance(7.5, threshold=-0.999)
    assert rule.needs_uncond(here)
    guided, _ = rule.guide(*batch, here)
    expected, _ = ClassifierFreeGuidance(7.5).guide(*batch, here)
    assert torch.allclose(guided, expected, atol=1e-4)
    assert not rule.needs_uncond(step(kind, 1, here.state))
    assert torch.equal(rule.guide_cond(batch[0], batch[2], here), batch[0])


def test_a_sample_that_crossed_waits_as_conditional_for_the_others():
    near, far, latents = (x.clone() for x in predictions((2, 4, 8, 8)))
    far[0] = near[0] + 1e-3  # the first sample agrees, the second does not
    rule, state = AdaptiveGuidance(7.5, threshold=0.999), {}
    rule.guide(near, far, latents, step(state=state))
    assert rule.needs_uncond(step(index=1, state=state))
    guided, _ = rule.guide(near, far, latents, step(index=1, state=state))
    assert torch.allclose(guided[0], near[0], atol=1e-5)
    assert torch.allclose(guided[1], far[1] + 7.5 * (near[1] - far[1]), atol=1e-4)


def test_a_threshold_above_one_is_plain_guidance():
    rule, state = AdaptiveGuidance(7.5, threshold=1.1), {}
    for index in range(3):
        batch, here = predictions((2, 4, 8, 8), seed=index), step(index=index, state=state)
        assert rule.needs_uncond(here)
        guided, _ = rule.guide(*batch, here)
        expected, _ = ClassifierFreeGuidance(7.5).guide(*batch, here)
        assert torch.allclose(guided, expected, atol=1e-5)


def test_threshold_is_a_number():
    with pytest.raises(ValueError, match="threshold must be a finite number"):
        AdaptiveGuidance(7.5, threshold=float("nan"))
