from dataclasses import replace
from itertools import permutations

import pytest
import torch
from world import KINDS, MeanColour, Wavy, sample, start, steps

from diffguide.guidance import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    Interval,
    NormMatching,
    Rescale,
    RewardGuidance,
    Scheduled,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "inner", [None, ClassifierFreeGuidance(3.0), Rescale(AdaptiveProjectedGuidance(4.0))], ids=repr
)
def test_a_strength_of_0_is_the_rule_bit_for_bit_and_free(kind, inner):
    def never(*args):
        raise AssertionError("a strength of 0 looks at nothing")

    step, z = steps(kind)[1], start()
    step.decode = step.evaluate = never
    cond, uncond = start(seed=1), start(seed=2)
    rule = RewardGuidance(never, 0.0, inner, kl=0.1, through_denoiser=True)
    if inner is None:
        assert rule.guide_cond(cond, z, step) is cond
    else:
        assert torch.equal(rule.guide(cond, uncond, z, step)[0], inner.guide(cond, uncond, z, steps(kind)[1])[0])
    assert step.numbers == {}


def wrapped(order):
    make = {
        "reward": lambda rule: RewardGuidance(Wavy(), 0.4, rule, kl=1.0),
        "interval": lambda rule: Interval(rule, 0.2, 0.8),
        "schedule": lambda rule: Scheduled(rule, "cosine", end=2.0),
        "rescale": Rescale,
        "norm": NormMatching,
    }
    rule = AdaptiveProjectedGuidance(5.0)
    for name in order:
        rule = make[name](rule)
    return rule


def test_stages_come_in_one_order_whatever_the_order_written():
    names = ("interval", "schedule", "rescale", "reward")
    expected, _ = sample(wrapped(names))
    assert not torch.equal(expected, sample(wrapped(names[:-1]))[0])
    for order in permutations(names):
        assert torch.equal(sample(wrapped(order))[0], expected)


def test_it_acts_last_on_what_the_corrections_made():
    step, z, cond, uncond = steps("epsilon")[1], start(), start(seed=1), start(seed=2)
    inner = NormMatching(Rescale(ClassifierFreeGuidance(6.0)))
    before = inner.guide(cond, uncond, z, step)[0]
    alone = RewardGuidance(Wavy(), 0.3).guide_cond(before, z, replace(step))
    assert torch.equal(RewardGuidance(Wavy(), 0.3, inner).guide(cond, uncond, z, step)[0], alone)


def test_an_interval_around_leaves_out_both_and_its_own_the_reward():
    for rule in (Interval(RewardGuidance(Wavy(), 0.3), 0.4, 0.8), RewardGuidance(Wavy(), 0.3, start=0.4, stop=0.8)):
        _, trace = sample(rule)
        assert [record.reward is not None for record in trace] == [False, False, True, True, False]
        assert [record.decision[0] for record in trace] == ["conditional"] * 2 + ["guided"] * 2 + ["conditional"]
    guided = ClassifierFreeGuidance(3.0)
    asked = [record.evaluations for record in sample(Interval(RewardGuidance(Wavy(), 0.3, guided), 0.4, 0.8))[1]]
    assert asked == [1, 1, 2, 2, 1]
    asked = [record.evaluations for record in sample(RewardGuidance(Wavy(), 0.3, guided, start=0.4, stop=0.8))[1]]
    assert asked == [2] * 5


def test_alone_it_needs_no_unconditional_prediction():
    step = steps("epsilon")[0]
    alone, both = RewardGuidance(MeanColour()), RewardGuidance(MeanColour(), rule=ClassifierFreeGuidance(3.0))
    for rule in (alone, Interval(alone), Rescale(Scheduled(alone))):
        assert (rule.acts_alone, rule.needs_uncond(step)) == (True, False)
    for rule in (both, Interval(both), ClassifierFreeGuidance(3.0)):
        assert (rule.acts_alone, rule.needs_uncond(step)) == (False, True)
    z, cond = start(), start(seed=1)
    assert torch.equal(alone.guide(cond, z, z, replace(step))[0], alone.guide_cond(cond, z, replace(step)))


def test_other_rules_have_no_reward_in_their_trace():
    _, trace = sample(ClassifierFreeGuidance(3.0))
    record = trace[0]
    fields = [record.reward, record.reward_after, record.move_norm, record.divergence, record.kernel]
    assert fields == [None] * 5
    assert "reward" not in trace.to_dict()["steps"][0]
