"""Ensembles against the authors' formulas, written out in float64."""

import json

import numpy as np
import pytest
import torch

from diffguide.guidance import RewardEnsemble, as_reward

WEIGHTS = [(3.0, 0.5, -1.0), (100.0, -20.0, 40.0), (-0.4, 0.2, 0.3), (1.0, 1.0, 1.0), (0.3, -0.7, 0.1)]


def linear(weights, index=0, **options):
    return as_reward(lambda x: (x.mean((2, 3)) * x.new_tensor(weights)).sum(1) ** 3 + 7, name=f"r{index}", **options)


def members(count=5):
    return [linear(weights, index) for index, weights in enumerate(WEIGHTS[:count])]


def images(count=9, seed=0):
    return torch.rand(count, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(rewards, calibration, x, combine, weight):
    rows = []
    for reward in rewards:
        known = reward(calibration).numpy()
        rows.append((reward(x).numpy() - known.mean()) / known.std(ddof=1))
    z = np.stack(rows)
    if combine == "worst":
        return z.min(0)
    spread = z.var(0, ddof=1) if len(z) > 1 else 0
    return z.mean(0) - (weight * spread if combine == "uncertainty" else 0)


@pytest.mark.parametrize("combine", ["mean", "worst", "uncertainty"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_formulas(combine, count):
    rewards, calibration, x = members(count), images(30, 1), images()
    ensemble = RewardEnsemble(rewards, combine, 0.3)
    ensemble.calibrate(calibration, batch_size=7)
    assert ensemble(x).numpy() == pytest.approx(by_hand(rewards, calibration, x, combine, 0.3), abs=1e-9)


@pytest.mark.parametrize("combine", ["mean", "worst", "uncertainty"])
def test_gradients_are_those_of_finite_differences(combine):
    ensemble = RewardEnsemble(members(), combine)
    ensemble.calibrate(images(30, 1))
    x = images().requires_grad_()
    assert torch.autograd.gradcheck(ensemble, (x,), fast_mode=True)
    [gradient] = torch.autograd.grad(ensemble(x).sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_every_reward_is_on_the_common_scale_and_the_worst_is_least():
    ensemble, calibration = RewardEnsemble(members(), "worst"), images(50, 1)
    ensemble.calibrate(calibration)
    z = ensemble.scores(calibration)
    assert z.mean(1).numpy() == pytest.approx(np.zeros(5), abs=1e-9)
    assert z.std(1).numpy() == pytest.approx(np.ones(5))
    assert (ensemble(calibration) <= z).all()


def test_scales_are_kept_in_a_file(tmp_path):
    ensemble, path = RewardEnsemble(members(3)), tmp_path / "scales.json"
    with pytest.raises(ValueError, match="on no common scale"):
        ensemble(images())
    with pytest.raises(ValueError, match="on no common scale"):
        ensemble.save_scales(path)
    ensemble.calibrate(images(30, 1))
    ensemble.save_scales(path)
    fewer = RewardEnsemble(list(reversed(members(3)))[:2])
    fewer.load_scales(path)
    assert fewer.scales == [ensemble.scales[2], ensemble.scales[1]]
    with pytest.raises(ValueError, match="no usable scale of each of r0, r1, r2, r3"):
        RewardEnsemble(members(4)).load_scales(path)
    rows = json.loads(path.read_text())
    rows["scales"]["r1"]["std"] = 0
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="not positive"):
        ensemble.load_scales(path)
    with pytest.raises(ValueError, match="there is no file of reward scales"):
        ensemble.load_scales(tmp_path / "none.json")


def test_an_ensemble_is_a_reward_and_has_what_its_members_have():
    blind = as_reward(lambda x, prompts: [len(p) for p in prompts], name="blind", differentiable=False)
    assert RewardEnsemble(members()).differentiable
    mixed = RewardEnsemble([*members(2), blind])
    assert (mixed.differentiable, mixed.needs_prompts, mixed.space) == (False, True, "image")
    with pytest.raises(ValueError, match="needs prompts"):
        mixed(images())
    prompts = [f"{'a' * i}" for i in range(1, 10)]
    mixed.calibrate(images(), prompts, batch_size=4)
    inner = RewardEnsemble(members(2), "worst", name="inner")
    inner.calibrate(images())
    outer = RewardEnsemble([mixed, inner], "uncertainty")
    outer.calibrate(images(), prompts)
    assert outer(images(), prompts).shape == (9,)


def test_what_cannot_be_an_ensemble_is_refused():
    for rewards, message in (
        ([], "at least one"),
        ([*members(1), linear(WEIGHTS[0], 1, space="latent")], "image and latent"),
        ([*members(1), *members(1)], "different names, not r0, r0"),
        ([3], "a reward is a callable"),
    ):
        with pytest.raises(ValueError, match=message):
            RewardEnsemble(rewards)
    with pytest.raises(ValueError, match="one of mean, worst, uncertainty, not 'best'"):
        RewardEnsemble(members(), "best")
    for weight in (-1, float("nan")):
        with pytest.raises(ValueError, match="uncertainty_weight must"):
            RewardEnsemble(members(), "uncertainty", weight)
    with pytest.raises(ValueError, match="two images or more, not 1"):
        RewardEnsemble(members()).calibrate(images(1))
    with pytest.raises(ValueError, match="'r0' cannot be scaled"):
        RewardEnsemble(members()).calibrate(images(1).expand(4, -1, -1, -1))
