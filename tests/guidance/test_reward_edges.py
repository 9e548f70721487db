import gc
import pickle
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from world import Latent, MeanColour, Wavy, decode, levels, moved, predict, start, steps

from diffguide.guidance import RewardGuidance, Trace, as_reward
from diffguide.guidance.reward_gradient import scored


def test_a_latent_reward_needs_no_decoder():
    step, z = steps("epsilon")[2], start()
    step.decode = None
    guided, move = moved(RewardGuidance(Latent(), 0.05), step, z)
    x0 = step.denoised[0] * z + step.denoised[1] * guided
    assert Latent()(x0).gt(Latent()(x0 - move)).all()
    with pytest.raises(ValueError, match="'mean colour' scores images, and this pipeline has no decoder"):
        moved(RewardGuidance(MeanColour()), step, z)


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


def test_scores_come_to_where_the_latents_are():
    """A pipeline may be spread over several devices; numbers of NumPy are double ones."""
    step, z = steps("epsilon")[2], torch.zeros(2, 4, 4, 4, device="meta")
    step.decode = lambda x0: torch.rand(2, 3, 8, 8)
    score = scored(as_reward(lambda images: np.arange(2) / 2, differentiable=False), step, torch.float32)
    with torch.no_grad():
        assert score(z).device.type == "meta"
