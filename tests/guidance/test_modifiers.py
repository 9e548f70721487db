from itertools import permutations
from pathlib import Path

import pytest
import torch
from cases import predictions, step

from diffguide.guidance import (
    AdaptiveGuidance,
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    Correction,
    EnergyPreserving,
    Guidance,
    Interval,
    NormMatching,
    Renorm,
    Rescale,
    RewardGuidance,
    Scheduled,
    Step,
)


def sampled(rule: Guidance, total: int = 8, kind: str = "v_prediction") -> tuple[list[torch.Tensor], list[bool]]:
    """What a rule makes of each evaluation, and whether it asked for the unconditional prediction."""
    state, results, asked = {}, [], []
    for index in range(total):
        here = step(kind, index, state)
        here.total = total
        cond, uncond, latents = predictions((2, 4, 8, 8), seed=index)
        asked.append(rule.needs_uncond(here))
        if asked[-1]:
            results.append(rule.guide(cond, uncond, latents, here)[0])
        else:
            results.append(rule.guide_cond(cond, latents, here))
    return results, asked


def test_interval_guides_inside_and_is_conditional_outside():
    results, asked = sampled(Interval(ClassifierFreeGuidance(5.0), start=0.25, stop=0.75))
    plain, _ = sampled(ClassifierFreeGuidance(5.0))
    assert asked == [False, False, True, True, True, True, False, False]
    for index, (result, guided) in enumerate(zip(results, plain)):
        assert torch.equal(result, guided if asked[index] else predictions((2, 4, 8, 8), seed=index)[0])


@pytest.mark.parametrize(
    ("low", "high", "inside"), [(1.7, None, False), (None, 1.7, True), (1.6, 1.8, True), (1.8, None, False)]
)
def test_interval_of_noise_levels_is_open_below_and_closed_above(low, high, inside):
    rule = Interval(ClassifierFreeGuidance(5.0), low=low, high=high)
    here = step("epsilon", sigma=1.7)
    for dtype in (torch.float64, torch.float32):
        here.sigma = torch.tensor(1.7, dtype=dtype)
        assert rule.needs_uncond(here) is inside


def test_a_correction_of_ones_own_acts_after_the_others():
    class Halved(Correction):
        def correct(self, guided, cond, latents, step):
            return guided / 2

    batch = predictions((2, 4, 8, 8))
    for rule in (Halved(Renorm(ClassifierFreeGuidance(5.0))), Renorm(Halved(ClassifierFreeGuidance(5.0)))):
        guided, _ = rule.guide(*batch, step())
        expected, _ = Renorm(ClassifierFreeGuidance(5.0)).guide(*batch, step())
        assert torch.equal(guided, expected / 2)


def test_of_two_of_ones_own_the_inner_one_acts_first():
    class Halved(Correction):
        def correct(self, guided, cond, latents, step):
            return guided / 2

    class Shifted(Correction):
        def correct(self, guided, cond, latents, step):
            return guided + 1

    batch, rule = predictions((2, 4, 8, 8)), ClassifierFreeGuidance(5.0)
    plain, _ = rule.guide(*batch, step())
    assert torch.equal(Halved(Shifted(rule)).guide(*batch, step())[0], (plain + 1) / 2)
    assert torch.equal(Shifted(Halved(rule)).guide(*batch, step())[0], plain / 2 + 1)


def test_the_whole_interval_is_the_rule():
    for rule in (AdaptiveProjectedGuidance(8.0), ClassifierFreeGuidance(3.0), AdaptiveGuidance(5.0, threshold=2.0)):
        ours, plain = sampled(Interval(rule)), sampled(rule)
        assert ours[1] == plain[1]
        assert all(torch.equal(a, b) for a, b in zip(ours[0], plain[0], strict=True))


def test_momentum_goes_on_where_an_interval_begins():
    """Outside the interval APG has no differences to remember: it begins afresh inside."""
    results, _ = sampled(Interval(AdaptiveProjectedGuidance(8.0), start=0.5))
    rule, state = AdaptiveProjectedGuidance(8.0), {}
    for index in range(4, 8):
        expected, _ = rule.guide(*predictions((2, 4, 8, 8), seed=index), step("v_prediction", index, state))
        assert torch.equal(results[index], expected)


@pytest.mark.parametrize(
    ("schedule", "end", "scales"),
    [
        ([1.0, 2.0, 3.0, 4.0], 1.0, [1, 2, 3, 4]),
        (lambda progress: 2 + progress, 1.0, [2, 2 + 1 / 3, 2 + 2 / 3, 3]),
        ("linear", 1.0, [7, 5, 3, 1]),
        ("cosine", 1.0, [7, 5.5, 2.5, 1]),
        ("linear", 10.0, [7, 8, 9, 10]),
    ],
)
def test_schedules(schedule, end, scales):
    results, asked = sampled(Scheduled(ClassifierFreeGuidance(7.0), schedule, end=end), total=4)
    for index, (result, scale) in enumerate(zip(results, scales, strict=True)):
        cond, uncond, _ = predictions((2, 4, 8, 8), seed=index)
        assert torch.allclose(result, uncond + scale * (cond - uncond), atol=1e-5)
        assert asked[index] == (scale != 1)


def test_rescale_is_the_option_of_plain_guidance():
    for phi in (0.0, 0.7, 1.0):
        ours, _ = sampled(Rescale(ClassifierFreeGuidance(7.0), phi))
        option, _ = sampled(ClassifierFreeGuidance(7.0, guidance_rescale=phi))
        assert all(torch.equal(a, b) for a, b in zip(ours, option, strict=True))


def test_what_is_rescaled_is_rounded_in_another_way_and_nothing_else_is():
    """Of one and the same step: what is changed all over need not be the pipelines' expression to the last bit."""
    (cond, uncond, latents), its = predictions((2, 4, 8, 8)), step()
    plain = uncond + 7.0 * (cond - uncond)
    for rule in (Rescale(ClassifierFreeGuidance(7.0)), EnergyPreserving(ClassifierFreeGuidance(7.0))):
        before = rule.correct(plain, cond, latents, its)
        assert torch.allclose(rule.guide(cond, uncond, latents, its)[0], before, atol=1e-5)
        assert torch.equal(ClassifierFreeGuidance(7.0).guide(cond, uncond, latents, its)[0], plain)
    for neutral in (Rescale(ClassifierFreeGuidance(7.0), 0.0), Renorm(ClassifierFreeGuidance(7.0), 1e3)):
        assert torch.equal(neutral.guide(cond, uncond, latents, its)[0], plain)


def wrapped(order: tuple[str, ...]) -> Guidance:
    make = {
        "interval": lambda rule: Interval(rule, 0.25, 0.9),
        "schedule": lambda rule: Scheduled(rule, "cosine", end=2.0),
        "rescale": lambda rule: Rescale(rule, 0.7),
        "norm": NormMatching,
    }
    rule: Guidance = AdaptiveProjectedGuidance(9.0)
    for name in order:
        rule = make[name](rule)
    return rule


def test_stages_come_in_one_order_whatever_the_order_written():
    expected, asked = sampled(wrapped(("schedule", "interval", "rescale", "norm")))
    for order in permutations(("interval", "schedule", "rescale", "norm")):
        ours = sampled(wrapped(order))
        assert ours[1] == asked
        assert all(torch.equal(a, b) for a, b in zip(ours[0], expected, strict=True))


def test_corrections_are_measured():
    cond, uncond, latents = predictions((2, 4, 8, 8))
    guided, measured = Rescale(ClassifierFreeGuidance(7.0), 1.0).guide(cond, uncond, latents, step())
    assert torch.allclose(measured.numbers()["update"].sqrt(), (guided - cond).flatten(1).norm(dim=1))


def test_scale_reaches_the_rule():
    rule = Rescale(Interval(AdaptiveProjectedGuidance(9.0)))
    assert rule.guidance_scale == 9.0
    assert rule.with_scale(4.0).guidance_scale == 4.0
    assert rule.guidance_scale == 9.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Interval("apg"), "Interval goes around a rule, not around 'apg'"),
        (lambda: Interval(Path("apg")), "Interval goes around a rule, not around a pathlib.*Path"),
        (lambda: Interval(Rescale(Interval(ClassifierFreeGuidance(2.0)))), "has a Interval already"),
        (lambda: Rescale(ClassifierFreeGuidance(2.0, guidance_rescale=0.5)), "is rescaled already"),
        (lambda: Rescale(ClassifierFreeGuidance(2.0), 1.5), "phi must be between 0 and 1, not 1.5"),
        (lambda: Interval(ClassifierFreeGuidance(2.0), 0.5, 0.5), "start=0.5, stop=0.5"),
        (lambda: Interval(ClassifierFreeGuidance(2.0), low=2.0, high=1.0), "low=2.0, high=1.0"),
        (lambda: Scheduled(ClassifierFreeGuidance(2.0), "liner"), "'linear' or 'cosine'"),
        (lambda: Scheduled(ClassifierFreeGuidance(2.0), [1.0, float("nan")]), "finite number, not nan"),
    ],
)
def test_what_cannot_be_combined_says_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_list_of_another_length_says_so():
    with pytest.raises(ValueError, match="3 scales for 4 evaluations"):
        sampled(Scheduled(ClassifierFreeGuidance(2.0), [1.0, 2.0, 3.0]), total=4)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"start": 0.9}, "the interval start=0.9 holds none of the 8 evaluations: all were conditional"),
        (
            {"low": 500.0},
            r"the interval low=500 holds none of the 8 .*, whose noise levels go from \S+ to \S+: ",
        ),
    ],
)
def test_an_interval_without_an_evaluation_is_warned_of_once_at_the_end(limits, said):
    rule = Interval(ClassifierFreeGuidance(2.0), **limits)
    with pytest.warns(UserWarning, match=said) as caught:
        _, asked = sampled(rule)
    assert not any(asked)
    assert len(caught) == 1
    sampled(Interval(ClassifierFreeGuidance(2.0), start=0.5, stop=0.6))  # holds one, and warnings are errors


def test_an_interval_of_noise_levels_needs_noise_levels():
    here = step()
    here.sigma = None
    with pytest.raises(ValueError, match="states no noise level"):
        Interval(ClassifierFreeGuidance(2.0), low=1.0).needs_uncond(here)
    with pytest.raises(ValueError, match="states no noise level"):  # also where the interval is over, or yet to come
        Interval(ClassifierFreeGuidance(2.0), start=0.6, stop=0.7, low=1.0).needs_uncond(Step(index=0, total=4))


def test_outside_an_interval_nothing_is_done_after_a_step():
    class Doubled(ClassifierFreeGuidance):
        def after_step(self, latents, step):
            return 2 * latents

    rule, z, state = Interval(Doubled(5.0), 0.0, 0.5), torch.ones(1, 4), {}
    found = [float(rule.after_step(z, step(index=index, state=state)).mean()) for index in range(4)]
    assert found == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda rule: Rescale(rule, phi="a"), "phi must be a finite number, not 'a'"),
        (lambda rule: Interval(rule, start="a"), "start must be a finite number, not 'a'"),
        (lambda rule: NormMatching(rule, dim=1.7), "dim must be the number of a dimension, not 1.7"),
        (lambda rule: Renorm(rule, dim=(1, 2)), r"dim must be the number of a dimension, not \(1, 2\)"),
        (lambda rule: EnergyPreserving(rule, percentiles=50), "percentiles must be two numbers, not 50"),
        (lambda rule: EnergyPreserving(rule, percentiles=("a", "b")), "a percentile must be a finite number, not 'a'"),
        (lambda rule: Scheduled(rule, []), "a schedule has one scale at least"),
        (lambda rule: Scheduled(rule, 5), "a schedule is a name, a list or a function, not 5"),
        (lambda rule: RewardGuidance(lambda images: images.mean((1, 2, 3)), stop="a"), "stop must be a finite number"),
    ],
)
def test_options_of_another_type(make, message):
    with pytest.raises(ValueError, match=message):
        make(ClassifierFreeGuidance(5.0))
