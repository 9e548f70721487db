import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from world import Latent, sample, start, steps

from diffguide.guidance import ClassifierFreeGuidance, Correction, Rescale, RewardGuidance

BOUNDS = {"kl": 0.3, "hellinger": 0.1, "js": 0.1, "tv": 0.2, "fisher": 2.0}


def by_definition(name: str, delta: float, s: float) -> float:
    x = torch.linspace(-12, 12 + delta, 20001, dtype=torch.float64)
    p, q = (torch.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi) for mean in (0.0, delta))
    middle = (p + q) / 2
    return {
        "kl": delta**2 / 2,
        "hellinger": 1 - math.exp(-(delta**2) / 8),
        "tv": 2 * stats.norm.cdf(delta / 2) - 1,
        "fisher": delta**2 / s**2,
        "js": float(torch.trapezoid(torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle), x)) / 2,
    }[name]


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("per_dimension", [False, True])
@pytest.mark.parametrize("options", [{}, {"ascent_steps": 3}, {"line_search": 0}, {"floor": 0.0}], ids=repr)
def test_the_trust_region_holds_at_every_step(name, per_dimension, options):
    """Recomputed from what the trace has: kernel and move."""
    rule = RewardGuidance(Latent(), 50.0, per_dimension=per_dimension, **{name: BOUNDS[name]}, **options)
    _, trace = sample(rule, "v_prediction")
    floor, unit = options.get("floor", 0.03), 144**0.5 if per_dimension else 1
    for record in trace[:-1] if floor == 0 else trace:
        a, s = record.kernel[0], max(record.kernel[1], floor)
        for norm, said in zip(record.move_norm.tolist(), record.divergence.tolist()):
            exact = by_definition(name, a * norm / s / unit, s)
            assert exact <= BOUNDS[name]
            assert said == pytest.approx(exact, rel=1e-4)
            if not per_dimension:
                assert exact == pytest.approx(BOUNDS[name], rel=1e-3)  # the reward is far: all of it is used
    assert (trace[-1].reward is None) == (floor == 0)  # where s is 0 nothing may move, and nothing is looked at


def test_a_bound_on_the_prediction_itself():
    """Not only in the books: what the pipeline gets obeys it, also after a rule with corrections around it."""
    for step in steps("epsilon")[1:-1]:
        z, cond, uncond = start(), start(seed=1), start(seed=2)
        inner = Rescale(ClassifierFreeGuidance(4.0))
        before = inner.guide(cond, uncond, z, step)[0].double()
        after = RewardGuidance(Latent(), 50.0, inner, kl=0.2).guide(cond, uncond, z, step)[0].double()
        delta = step.kernel[0] * ((after - before) * step.denoised[1]).flatten(1).norm(dim=1) / step.kernel[1]
        assert torch.allclose(delta**2 / 2, torch.tensor(0.2, dtype=torch.float64), rtol=1e-3)


class Tripled(Correction):
    """Of a user's own, at the place that corrections have."""

    def correct(self, guided, cond, latents, step):
        return cond + 3 * (guided - cond)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_no_correction_of_ones_own_comes_after_the_bound(order):
    makers = [lambda rule: RewardGuidance(Latent(), 50.0, rule, kl=0.01), Tripled]
    step, z, cond, uncond = steps("epsilon")[2], start(), start(seed=1), start(seed=2)
    rule = ClassifierFreeGuidance(4.0)
    before = Tripled(rule).guide(cond, uncond, z, step)[0].double()
    for place in order:
        rule = makers[place](rule)
    after = rule.guide(cond, uncond, z, step)[0].double()
    delta = step.kernel[0] * ((after - before) * step.denoised[1]).flatten(1).norm(dim=1) / step.kernel[1]
    assert torch.allclose(delta**2 / 2, torch.tensor(0.01, dtype=torch.float64), rtol=1e-3)


@pytest.mark.parametrize("options", [{"kl": 0.01}, {"weight": "noise"}, {"weight": "signal", "fisher": 0.5}], ids=repr)
def test_samples_at_levels_of_their_own_are_what_each_is_alone(options):
    first, second = steps("v_prediction")[1], steps("v_prediction")[3]
    names, z, rule = ("denoised", "noise", "kernel"), start(), RewardGuidance(Latent(), 0.4, **options)
    pairs = {name: tuple(map(torch.tensor, zip(getattr(first, name), getattr(second, name)))) for name in names}
    cond = start(seed=1)
    together = rule.guide_cond(cond, z, replace(first, numbers={}, **pairs))
    for k, step in enumerate((first, second)):
        alone = rule.guide_cond(cond[k : k + 1], z[k : k + 1], replace(step, numbers={}))
        assert torch.allclose(together[k : k + 1], alone, atol=1e-5)
