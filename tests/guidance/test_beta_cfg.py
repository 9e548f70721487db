import pytest
import torch
from cases import SHAPES, predictions, step

from diffguide.guidance import ClassifierFreeGuidance
from diffguide.guidance.beta_cfg import BetaClassifierFreeGuidance


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize(("a", "b", "gamma"), [(2, 2, 1), (2, 3, 1), (1.5, 4, 0.3), (1, 1, 0.5), (3, 1, 0)])
def test_is_the_authors_sampler_on_the_prediction_itself(shape, kind, a, b, gamma):
    from scipy.stats import beta

    cond, uncond, latents = predictions(shape)
    for index in range(4):
        here = step(kind, index)
        guided, _ = BetaClassifierFreeGuidance(7.5, a, b, gamma).guide(cond, uncond, latents, here)
        density = beta.pdf(index / (here.total - 1), a, b)
        for k in range(shape[0]):
            d = cond[k].double() - uncond[k].double()
            expected = uncond[k].double() + 7.5 * density * d / d.flatten().norm() ** gamma
            assert torch.allclose(guided[k].double(), expected, atol=1e-4)


def test_a_flat_density_at_full_length_is_plain_guidance():
    batch = predictions((2, 4, 8, 8))
    for index in range(4):
        guided, _ = BetaClassifierFreeGuidance(7.5, a=1, b=1, gamma=0).guide(*batch, step(index=index))
        expected, _ = ClassifierFreeGuidance(7.5).guide(*batch, step(index=index))
        assert torch.allclose(guided, expected, atol=1e-5)


def test_identical_predictions_are_the_guided_one():
    cond, _, latents = predictions((2, 4, 8, 8))
    for gamma in (1, 2):
        guided, _ = BetaClassifierFreeGuidance(7.5, gamma=gamma).guide(cond, cond, latents, step(index=1))
        assert torch.equal(guided, cond)


def test_a_call_of_one_step_is_finite():
    here = step()
    here.total = 1
    guided, _ = BetaClassifierFreeGuidance(7.5).guide(*predictions((2, 4, 8, 8)), here)
    assert guided.isfinite().all()


def test_needs_no_unconditional_prediction_where_it_is_plain_guidance_at_scale_one():
    assert not BetaClassifierFreeGuidance(1.0, a=1, b=1, gamma=0).needs_uncond(step(index=1))
    assert BetaClassifierFreeGuidance(1.0, a=1, b=1, gamma=1).needs_uncond(step(index=1))
    assert BetaClassifierFreeGuidance(1.0, a=2, b=2, gamma=0).needs_uncond(step(index=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": 0.9}, "at least 1"),
        ({"b": 0}, "at least 1"),
        ({"gamma": -1}, "gamma must not be negative"),
        ({"gamma": float("inf")}, "gamma must be a finite number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        BetaClassifierFreeGuidance(7.5, **options)
