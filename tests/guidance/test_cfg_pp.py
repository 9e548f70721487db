import pytest
import torch
from cases import SHAPES, predictions, step

from diffguide.guidance import ClassifierFreeGuidance, ClassifierFreeGuidancePlusPlus


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
@pytest.mark.parametrize("scale", [0.0, 0.6, 1.5])
def test_a_first_order_step_with_it_is_the_papers_step(shape, kind, scale):
    """x' = a x0_guided + s eps_guided, taken of the rule's prediction, is a x0_lambda + s eps_uncond."""
    cond, uncond, latents = predictions(shape, dtype=torch.float64)
    here = step(kind)
    (a, b), (p, q), (signal, noise) = here.denoised, here.noise, here.kernel
    guided, _ = ClassifierFreeGuidancePlusPlus(scale, unit=1).guide(cond, uncond, latents, here)
    ours = signal * (a * latents + b * guided) + noise * (p * latents + q * guided)
    at_lambda = uncond + scale * (cond - uncond)
    papers = signal * (a * latents + b * at_lambda) + noise * (p * latents + q * uncond)
    torch.testing.assert_close(ours, papers, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_a_step_that_ends_without_noise_is_plain_guidance_with_lambda(kind):
    batch, here = predictions((2, 4, 8, 8)), step(kind)
    here.kernel = (1.0, 0.0)
    guided, _ = ClassifierFreeGuidancePlusPlus(5.0).guide(*batch, here)
    expected, _ = ClassifierFreeGuidance(0.4).guide(*batch, here)
    torch.testing.assert_close(guided, expected)


def test_an_evaluation_that_stays_at_its_level_has_the_scale_of_the_one_before():
    rule, state, batch = ClassifierFreeGuidancePlusPlus(7.5), {}, predictions((2, 4, 8, 8))
    first, _ = rule.guide(*batch, step(state=state))
    there = step(index=1, state=state)
    there.kernel = (0.5, 0.85)  # noise over signal of 1.7, which is where the evaluation is made
    assert torch.equal(rule.guide(*batch, there)[0], first)


@pytest.mark.parametrize(
    ("options", "message"), [({"unit": 0}, "unit must be above 0, not 0"), ({"unit": float("nan")}, "unit must be a")]
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ClassifierFreeGuidancePlusPlus(7.5, **options)


def test_a_scheduler_that_says_too_little_is_refused():
    here = step()
    here.kernel = None
    with pytest.raises(ValueError, match="does not say to which noise level its steps go: CFG\\+\\+ needs another one"):
        ClassifierFreeGuidancePlusPlus(7.5).guide(*predictions((2, 4, 8, 8)), here)
