"""Best of n and the search over initial noise, on real pipelines with few steps."""

import numpy as np
import pytest
import torch

from diffguide.guidance import ClassifierFreeGuidance
from diffguide.guidance.zeroth_order import to_shell
from diffguide.pipelines import best_of_n, guide, load_pipeline, load_reward, search_noise
from diffguide.pipelines.embedded import MODELS
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.initial_noise import initial_noise
from diffguide.pipelines.scoring import to_pictures

RUN = {"num_inference_steps": 2, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def pipe():
    assert MODELS.is_dir()
    return load_pipeline("emoji-sd", progress_bar=False, device="cpu")


def red(images):
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def of_seed(pipe, prompt, seed, **more):
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompt, generator=generator, output_type="pt", **{**RUN, **more}).images


def test_best_of_n_is_the_best_of_as_many_calls(pipe):
    images = torch.cat([of_seed(pipe, "red apple", seed, negative_prompt="worm") for seed in range(3, 8)])
    best = best_of_n(pipe, red, "red apple", 5, seed=3, batch_size=3, negative_prompt="worm", **RUN)
    expected = red(images)
    assert torch.allclose(best.scores, expected, atol=1e-4)
    assert (best.seed, best.seeds, best.evaluations) == (3 + int(expected.argmax()), [3, 4, 5, 6, 7], 5)
    assert best.score == best.scores.max()
    alone = best_of_n(pipe, red, "red apple", 1, seed=[best.seed], negative_prompt="worm", **RUN)
    assert alone.image.tobytes() == to_pictures(images[best.seed - 3][None])[0].tobytes()


def test_several_prompts_each_have_their_own_best_and_a_rule_may_act(pipe):
    seen = []

    def score(images, prompts):
        seen.extend(prompts)
        return red(images) * torch.tensor([1.0 if prompt == "red apple" else -1.0 for prompt in prompts])

    with guide(pipe, ClassifierFreeGuidance(4.0)) as guided:
        results = best_of_n(guided, score, ["red apple", "tree"], 3, seed=[5, 2, 9], batch_size=4, **RUN)
    assert seen == ["red apple"] * 3 + ["tree"] * 3
    for result, sign in zip(results, (1, -1), strict=True):
        expected = sign * torch.cat([red(of_seed(pipe, result.prompt, seed)) for seed in (5, 2, 9)])
        assert torch.allclose(result.scores, expected, atol=1e-4)
        assert result.seed == [5, 2, 9][int(expected.argmax())]


class LatentReward:
    name, space, differentiable, needs_prompts = "mean of latents", "latent", False, False

    def __call__(self, latents, prompts=None):
        assert latents.shape[1:] == (32, 8, 8)
        return latents.mean((1, 2, 3))


def test_a_latent_reward_looks_at_latents_and_the_picture_is_decoded(pipe):
    best = best_of_n(pipe, LatentReward(), "tree", 3, **RUN)
    assert best.image.tobytes() == to_pictures(of_seed(pipe, "tree", best.seed))[0].tobytes()
    found = search_noise(pipe, LatentReward(), "tree", 1, 2, 1, line_steps=1, **RUN)
    again = pipe("tree", latents=found.noise, generator=_behind(pipe, 0), output_type="pt", **RUN).images
    assert found.image.tobytes() == to_pictures(again)[0].tobytes()


def _behind(pipe, seed):
    generator = torch.Generator()
    generator.set_state(initial_noise(pipe, "tree", seed, RUN).state)
    return [generator]


def test_a_search_keeps_the_best_that_it_has_seen_and_counts_all(pipe):
    told = []
    options = {"rounds": 2, "candidates": 3, "top": 2, "line_steps": 2, "seed": 4, **RUN}
    found = search_noise(pipe, red, "tree", batch_size=3, on_round=lambda *args: told.append(args), **options)
    assert found.evaluations == len(found.scores) == 1 + 2 * (3 + 2)
    assert found.score == found.history[-1] == found.scores.max()
    assert found.history == sorted(found.history)
    assert told == [(1, found.history[1]), (2, found.history[2])]
    assert found.noise.norm() == pytest.approx(found.noise.numel() ** 0.5, rel=1e-5)
    noise = initial_noise(pipe, "tree", 4, RUN).noise
    assert found.scores[0] == pytest.approx(float(red(_image(pipe, to_shell(noise[None])))), abs=1e-4)
    assert found.score == pytest.approx(float(red(_image(pipe, found.noise))), abs=1e-4)
    again = search_noise(pipe, red, "tree", batch_size=3, **options)
    assert torch.equal(again.scores, found.scores)


def _image(pipe, noise):
    return pipe("tree", latents=noise, output_type="pt", **RUN).images


def test_a_search_raises_what_can_be_raised(pipe):
    with guide(pipe, ClassifierFreeGuidance(4.0)) as guided:
        found = search_noise(guided, red, "tree", 3, 4, 2, batch_size=4, num_inference_steps=2)
    assert found.history[-1] > found.history[0] + 0.02


class NotFinite(LatentReward):
    def __call__(self, latents, prompts=None):
        return latents.mean((1, 2, 3)) * float("nan")


@pytest.mark.parametrize("method", [best_of_n, search_noise])
def test_mistakes_are_told_in_a_line(pipe, method):
    for reward, options, message in (
        ("clip", {}, "a reward is a callable"),
        (red, {"generator": None}, "generator cannot be given"),
        (red, {"batch_size": 0}, "batch size must be at least 1"),
        (NotFinite(), {}, "must give 1 finite numbers"),
        (lambda images: images.mean(), {}, "one number an image"),
        (red, {"height": 63, "width": 64}, "divisible by 8"),
    ):
        with pytest.raises(UserError, match=message):
            method(pipe, reward, "tree", **{**RUN, **options})


def test_as_many_as_there_are_seeds(pipe):
    for seed in (np.int64(3), np.array([3, 4])):
        assert best_of_n(pipe, red, "tree", 2, seed, **RUN).seeds == [3, 4]
    assert best_of_n(pipe, red, "tree", seed=[4, 2], **RUN).seed in (4, 2)
    assert len(best_of_n(pipe, red, "tree", seed=[4, 2], **RUN).scores) == 2


def test_mistakes_of_one_of_them(pipe):
    for n, seed in ((0, 0), (3, [1, 2]), (2, [1, 1])):
        with pytest.raises(UserError, match="different seeds"):
            best_of_n(pipe, red, "tree", n, seed, **RUN)
    with pytest.raises(UserError, match="a search is for one prompt"):
        search_noise(pipe, red, ["tree", "dog"], **RUN)
    for options in ({"rounds": 0}, {"top": 9}, {"candidates": 1, "top": 1}, {"spread": -1.0}):
        with pytest.raises(UserError, match="a search needs"):
            search_noise(pipe, red, "tree", **options, **RUN)


@pytest.mark.slow
def test_search_and_best_of_n_at_equal_cost(pipe):
    """Not which one wins, which is the reward's to say, but that both do far more than nothing."""
    reward, run = load_reward("emoji-clip", device="cpu"), {"num_inference_steps": 4, "guidance_scale": 4.0}
    gains = []
    for seed, prompt in enumerate(["blue car", "grinning face", "dog face"]):
        found = search_noise(pipe, reward, prompt, 5, seed=seed, batch_size=16, **run)
        best = best_of_n(pipe, reward, prompt, found.evaluations, 100 * (seed + 1), batch_size=16, **run)
        gains.append([found.score - best.scores.mean(), best.score - best.scores.mean()])
    search, best_of = torch.tensor(gains).mean(0)
    assert search > 0.03
    assert best_of > 0.03


def test_a_rule_that_was_removed_is_not_silently_left_out(pipe):
    guided = guide(pipe, ClassifierFreeGuidance(3.0))
    guided.remove()
    for method in (best_of_n, search_noise):
        with pytest.raises(UserError, match="this rule was removed from its pipeline"):
            method(guided, red, "red apple", num_inference_steps=1)
