import json

import pytest
import torch
from world import (
    COLOURS,
    KINDS,
    MEAN,
    SIGMAS,
    VARIANCE,
    Kink,
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

from diffguide.guidance import RewardGuidance

W = torch.tensor(COLOURS, dtype=torch.float64)


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
