import gc
import json
import math
import pickle
import weakref
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from scipy import stats
from world import (
    COLOURS,
    KINDS,
    MEAN,
    SIGMAS,
    VARIANCE,
    Kink,
    Latent,
    MeanColour,
    Wavy,
    decode,
    levels,
    maps,
    moved,
    predict,
    rms,
    sample,
    start,
    steps,
)

from diffguide.guidance import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    Interval,
    NormMatching,
    Rescale,
    RewardGuidance,
    Scheduled,
    Trace,
)

W = torch.tensor(COLOURS, dtype=torch.float64)
BOUNDS = {"kl": 0.3, "hellinger": 0.1, "js": 0.1, "tv": 0.2, "fisher": 2.0}


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


@pytest.mark.parametrize("sampler", ["ddim", "lcm"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"ascent_steps": 3}, {"through_denoiser": True}], ids=repr)
def test_the_optimum_is_reached_and_not_overshot(sampler, kind, options):
    reward, plain = MeanColour(), sample(RewardGuidance(MeanColour(), 0.0), kind, sampler)[0]
    ended, trace = sample(RewardGuidance(reward, 2.0, **options), kind, sampler)
    assert (reward(decode(plain)) < -0.1).all()
    assert (reward(decode(ended)) > -1e-8).all()
    for record in trace:
        assert (record.reward_after >= record.reward).all()
    beyond = sample(RewardGuidance(reward, 2.0, line_search=0, **options), kind, sampler)[0]
    assert (reward(decode(beyond)) < -0.01).all()  # what the search is for


def test_a_kink_is_not_overshot_either():
    reward, rule = Kink(), RewardGuidance(Kink(), 2.0, line_search=4)
    ended, trace = sample(rule)
    assert all((record.reward_after >= record.reward).all() for record in trace)
    assert (reward(decode(ended)) > reward(decode(sample(RewardGuidance(reward, 0.0))[0])) / 2).all()


def test_little_by_little_it_is_the_length_asked_for():
    step, z = steps("v_prediction")[2], start()
    _, move = moved(RewardGuidance(MeanColour(), 0.01), step, z)
    assert torch.allclose(rms(move), torch.full((2,), 0.01, dtype=torch.float64), rtol=1e-3)


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_direction_is_that_of_finite_differences(kind, through):
    step, z = steps(kind)[2], start((1, 4, 3, 3), dtype=torch.float64)
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.Tanh()).double().requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network[0].reset_parameters()
    step.evaluate, reward, (a, b) = network, Wavy(), step.denoised
    x0 = a * z + b * network(z)

    def score(position):
        return float(reward(decode(a * position + b * network(position) if through else position)))

    origin, h = (z if through else x0), 1e-6
    units = torch.eye(z.numel(), dtype=torch.float64).view(-1, *z.shape)
    slopes = [(score(origin + h * e) - score(origin - h * e)) / (2 * h) for e in units]
    gradient = torch.tensor(slopes, dtype=torch.float64)
    rule = RewardGuidance(reward, 1e-3, line_search=0, through_denoiser=through)
    _, move = moved(rule, step, z, network(z))
    assert torch.allclose(move.flatten(), 1e-3 * gradient / gradient.square().mean().sqrt(), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("sampler", ["ddim", "lcm"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", ["constant", "noise", "signal", lambda share: share**2])
def test_a_loop_by_hand(sampler, kind, weight):
    """With the gradient of the mean colour written out: 2 W^T (target - mean), the same at every pixel."""
    ended, _ = sample(RewardGuidance(MeanColour(), 0.3, weight=weight, line_search=0), kind, sampler)
    z = start().double()
    for index, (sigma, after) in enumerate(zip(SIGMAS, SIGMAS[1:])):
        signal, noise = levels(kind, sigma)
        (a, b), _ = maps(kind, signal, noise)
        x0 = a * z + b * predict(kind, z, signal, noise)
        colour = 0.5 + x0.mean((2, 3)) @ W.T
        gradient = (torch.tensor([0.9, 0.2, 0.4], dtype=torch.float64) - colour) @ W
        factor = {"constant": 1, "noise": noise, "signal": signal}.get(weight, noise**2)
        x0 = x0 + 0.3 * factor * (gradient / gradient.square().mean(1, keepdim=True).sqrt())[:, :, None, None]
        signal_after, noise_after = levels(kind, after)
        fresh = start(seed=100 + index).double() if sampler == "lcm" else (z - signal * x0) / noise
        z = signal_after * x0 + noise_after * fresh
    assert torch.allclose(ended.double(), x0, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_through_a_linear_denoiser_it_is_universal_guidance(kind):
    """Bansal et al., Algorithm 1, forward: x0 moves by minus the gradient of the loss with respect to z."""
    step, z = steps(kind)[2], start()
    step.evaluate, mixing = None, torch.linspace(0.2, 1.8, 6, dtype=torch.float64)
    alpha, s = levels(kind, step.sigma)
    gain = mixing * alpha * VARIANCE / (alpha**2 * VARIANCE + s**2)  # one per column: x0 = MEAN + gain (z - alpha MEAN)
    (a, b), _ = maps(kind, alpha, s)
    step.evaluate = lambda x: (MEAN + gain.to(x) * (x - alpha * MEAN) - a * x) / b
    guided, move = moved(RewardGuidance(MeanColour(), 1e-2, through_denoiser=True), step, z, step.evaluate(z))
    x0 = a * z + b * step.evaluate(z)
    colour = 0.5 + x0.double().mean((2, 3)) @ W.T
    loss = -((torch.tensor([0.9, 0.2, 0.4]) - colour) @ W)[:, :, None, None] * gain  # up to a factor
    assert torch.allclose(move, -1e-2 * (loss / rms(loss.expand_as(z))[:, None, None, None]).expand_as(z), atol=2e-5)
    assert guided.dtype == torch.float32


def test_the_evaluation_through_the_denoiser_is_counted():
    for through, count in ((False, 1), (True, 2)):
        _, trace = sample(RewardGuidance(MeanColour(), 0.1, through_denoiser=through, ascent_steps=3, stop=0.5))
        assert [record.evaluations for record in trace] == [count] * 3 + [1] * 2


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


def test_a_latent_reward_needs_no_decoder():
    step, z = steps("epsilon")[2], start()
    step.decode = None
    guided, move = moved(RewardGuidance(Latent(), 0.05), step, z)
    x0 = step.denoised[0] * z + step.denoised[1] * guided
    assert Latent()(x0).gt(Latent()(x0 - move)).all()
    with pytest.raises(ValueError, match="'mean colour' scores images, and this pipeline has no decoder"):
        moved(RewardGuidance(MeanColour()), step, z)


def test_alone_it_needs_no_unconditional_prediction():
    step = steps("epsilon")[0]
    alone, both = RewardGuidance(MeanColour()), RewardGuidance(MeanColour(), rule=ClassifierFreeGuidance(3.0))
    for rule in (alone, Interval(alone), Rescale(Scheduled(alone))):
        assert (rule.acts_alone, rule.needs_uncond(step)) == (True, False)
    for rule in (both, Interval(both), ClassifierFreeGuidance(3.0)):
        assert (rule.acts_alone, rule.needs_uncond(step)) == (False, True)
    z, cond = start(), start(seed=1)
    assert torch.equal(alone.guide(cond, z, z, replace(step))[0], alone.guide_cond(cond, z, replace(step)))


@pytest.mark.parametrize(
    "score", [lambda images: images.mean((1, 2, 3)) * 0, lambda images: (images * 0).sum((1, 2, 3)).sqrt()]
)
def test_a_gradient_of_0_or_none_at_all_moves_nothing(score):
    """The square root of 0 has an infinite slope."""
    step, z = steps("epsilon")[2], start()
    guided, _ = moved(RewardGuidance(score, 0.5), step, z)
    assert torch.equal(guided, predict("epsilon", z, *levels("epsilon", step.sigma)))


def test_at_noise_level_0_the_prediction_has_no_part_in_x0():
    step, z, cond = steps("epsilon")[2], start(), start(seed=1)
    for b in (0.0, torch.tensor(0.0)):
        step.denoised = (1.0, b)
        assert torch.equal(RewardGuidance(MeanColour()).guide_cond(cond, z, replace(step)), cond)


def test_twice_is_the_same_and_nothing_is_kept():
    held = []

    def decoder(x0):
        images = decode(x0)
        held.append(weakref.ref(images))
        return images

    rule, z, state = RewardGuidance(Wavy(), 0.3, through_denoiser=True, kl=0.5), start(), {}
    results = []
    for _ in range(2):
        step = replace(steps("epsilon")[1], decode=decoder, state=state, numbers={})
        results.append(moved(rule, step, z)[0])
        assert all(x.grad_fn is None for x in step.numbers.values() if torch.is_tensor(x))
    assert torch.equal(*results)
    assert state == {}
    gc.collect()
    assert held
    assert all(reference() is None for reference in held)


def test_the_trace():
    z, reward = start(), MeanColour()
    ended, trace = sample(RewardGuidance(reward, 0.3), z=z)
    content = json.loads(trace.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    for record, one in zip(trace, content["steps"]):
        assert one["kernel"] == list(record.kernel)
        assert one["reward"] == record.reward.tolist()
        assert one["move_norm"] == record.move_norm.tolist()
        assert max(one["move_norm"]) <= 0.3 * 12 + 1e-5
        assert one["cosine"] == [None, None]
    assert torch.allclose(trace[-1].reward_after, reward(decode(ended)), atol=1e-5)
    first = steps("epsilon")[0]
    assert torch.allclose(trace[0].update_norm, trace[0].move_norm / abs(first.denoised[1]), rtol=1e-3)
    assert trace.of_sample(1)[0].reward.tolist() == trace[0].reward.tolist()[1:]
    assert trace[0].divergence.tolist() == pytest.approx(
        [(first.kernel[0] * norm / first.kernel[1]) ** 2 / 2 for norm in trace[0].move_norm.tolist()], rel=1e-4
    )
    _, unseen = sample(RewardGuidance(reward, 0.3, line_search=0))
    assert unseen[0].reward_after.isnan().all()


def test_other_rules_have_no_reward_in_their_trace():
    _, trace = sample(ClassifierFreeGuidance(3.0))
    record = trace[0]
    fields = [record.reward, record.reward_after, record.move_norm, record.divergence, record.kernel]
    assert fields == [None] * 5
    assert "reward" not in trace.to_dict()["steps"][0]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"denoised": None}, {}, "no way from its epsilon prediction to the denoised space"),
        ({"kernel": None}, {"kl": 0.1}, "no Gaussian for its step, whose kl could be bounded"),
        ({"evaluate": None}, {"through_denoiser": True}, "a pipeline whose denoiser can be asked again"),
        ({"evaluate": torch.zeros_like}, {"through_denoiser": True}, "a prediction without gradient"),
        ({"decode": lambda x0: decode(x0.detach())}, {}, "images without gradient"),
        ({"noise": None}, {"weight": "noise"}, 'use weight="constant"'),
    ],
)
def test_what_a_step_must_have(change, options, message):
    with pytest.raises(ValueError, match=message):
        moved(RewardGuidance(MeanColour(), **options), replace(steps("epsilon")[1], **change), start())


def test_without_a_gaussian_and_without_a_bound():
    _, move = moved(RewardGuidance(MeanColour()), step := replace(steps("epsilon")[1], kernel=None), start())
    assert move.abs().max() > 0
    trace = Trace()
    trace.append(step, 1, 2, None)
    assert trace[0].kernel is None
    assert trace.to_dict()["steps"][0]["divergence"] == [None, None]


class Counted(MeanColour):
    differentiable = False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RewardGuidance(Counted()), "'mean colour' has no gradient to follow.*best of n.*ZO-RankSGD"),
        (lambda: RewardGuidance("clip"), "a callable"),
        (lambda: RewardGuidance(MeanColour(), -1.0), "strength must not be negative"),
        (lambda: RewardGuidance(MeanColour(), float("nan")), "strength must be a finite number"),
        (lambda: RewardGuidance(MeanColour(), kl=0.1, js=0.1), "one bound, not kl and js together"),
        (lambda: RewardGuidance(MeanColour(), tv=1.5), "tv, the bound .* above 0 and below 1, not 1.5"),
        (lambda: RewardGuidance(MeanColour(), ascent_steps=0), "ascent_steps must be a whole number from 1"),
        (lambda: RewardGuidance(MeanColour(), line_search=1.5), "line_search must be a whole number from 0"),
        (lambda: RewardGuidance(MeanColour(), start=0.5, stop=0.5), "start=0.5, stop=0.5"),
        (lambda: RewardGuidance(MeanColour(), weight="sigma"), "'constant', 'noise', 'signal' or a function"),
        (lambda: RewardGuidance(MeanColour(), floor=-1), "floor must not be negative"),
        (lambda: RewardGuidance(MeanColour(), rule="cfg"), "goes around a rule, not around 'cfg'"),
        (lambda: RewardGuidance(MeanColour(), rule=RewardGuidance(MeanColour())), "has a RewardGuidance already"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_reward_cannot_be_written_to_a_file_but_the_rule_can_be_pickled(tmp_path):
    rule = RewardGuidance(MeanColour(), kl=0.1)
    with pytest.raises(ValueError, match="reward of RewardGuidance is a MeanColour, which cannot be written to a file"):
        rule.save_pretrained(tmp_path / "rule")
    assert repr(pickle.loads(pickle.dumps(rule))) == repr(rule)
    assert "kl=0.1" in repr(rule)
