"""RewardGuidance in batches, in half precision, under no_grad and inference_mode, and without a device to wait for."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from world import KINDS, MeanColour, Wavy, decode, moved, sample, start, steps

from diffguide.guidance import (
    ClassifierFreeGuidance,
    RewardGuidance,
    Trace,
)


@pytest.mark.parametrize(
    "options", [{}, {"kl": 0.1}, {"through_denoiser": True, "ascent_steps": 2, "js": 0.2}], ids=repr
)
def test_batch_of_n_is_n_batches_of_one(options):
    rule, z = RewardGuidance(Wavy(), 0.3, **options), start((3, 4, 6, 6))
    step = steps("v_prediction")[1]
    together, _ = moved(rule, step, z)
    for k in range(3):
        alone, _ = moved(rule, steps("v_prediction")[1], z[k : k + 1])
        assert torch.allclose(together[k : k + 1], alone, atol=1e-5)


def test_prompts_go_with_their_rows():
    class Prompted(MeanColour):
        needs_prompts = True

        def __call__(self, images, prompts=None):
            return images.mean((1, 2, 3)) * images.new_tensor([1.0 if text == "light" else -1.0 for text in prompts])

    step, z = steps("epsilon")[1], start((1, 4, 6, 6)).expand(2, -1, -1, -1)
    with pytest.raises(ValueError, match="'mean colour' needs prompts, and the pipeline was called without texts"):
        moved(RewardGuidance(Prompted()), step, z)
    step.prompts = ("light", "dark")
    _, move = moved(RewardGuidance(Prompted(), line_search=0), step, z)
    assert torch.allclose(move[0], -move[1], atol=1e-5)
    assert move[0].abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_in_and_out(dtype):
    seen = []

    def decoder(x0):
        seen.append(x0.dtype)
        return decode(x0)

    step, z = steps("v_prediction")[2], start(dtype=dtype)
    step.decode, rule = decoder, RewardGuidance(Wavy(), 0.5, kl=200.0)
    guided, _ = moved(rule, step, z)
    exact, _ = moved(rule, steps("v_prediction")[2], z.float())
    assert (guided.dtype, set(seen)) == (dtype, {dtype})
    assert torch.allclose(guided.float(), exact, atol=0.05)


def test_gradients_that_half_precision_would_lose():
    class Faint(MeanColour):
        def __call__(self, images, prompts=None):
            return super().__call__(images) * 1e-4

    step, z = steps("v_prediction")[2], start(dtype=torch.float16)
    faint, _ = moved(RewardGuidance(Faint(), 0.5, line_search=0), step, z)
    plain, _ = moved(RewardGuidance(MeanColour(), 0.5, line_search=0), step, z)
    assert torch.allclose(faint, plain, atol=0.02)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", KINDS)
def test_callers_without_gradients(mode, kind):
    rule = RewardGuidance(Wavy(), 0.3, through_denoiser=True, kl=1.0)
    expected, _ = sample(rule, kind)
    with mode():
        ended, trace = sample(rule, kind, z=start())
        assert torch.equal(ended, expected)
    assert not ended.requires_grad
    assert not any(
        x.requires_grad for values in trace._readings._waiting for x in values.values() if torch.is_tensor(x)
    )


def test_levels_on_the_device_that_were_made_in_inference_mode():
    rule = RewardGuidance(Wavy(), 0.3, through_denoiser=True, fisher=3.0, weight="noise")
    step, z = steps("v_prediction")[1], start()
    expected, _ = moved(rule, replace(step), z)
    with torch.inference_mode():
        tensors = {name: tuple(map(torch.tensor, getattr(step, name))) for name in ("denoised", "noise", "kernel")}
        guided, _ = moved(rule, replace(step, **tensors), z)
    assert torch.allclose(guided, expected, atol=1e-6)


def test_a_decoder_that_was_loaded_in_inference_mode_says_so():
    with torch.inference_mode():
        network = torch.nn.Conv2d(4, 3, 1)
    step = steps("epsilon")[1]
    step.decode = network
    with pytest.raises(ValueError, match=r"loaded inside torch.inference_mode\(\), where gradients are impossible"):
        moved(RewardGuidance(MeanColour()), step, start())


@pytest.mark.parametrize(
    "options", [{}, {"kl": 0.1, "through_denoiser": True}, {"js": 0.1, "line_search": 0}], ids=repr
)
def test_it_waits_for_no_device(options):
    rule = RewardGuidance(Wavy(), 0.3, ClassifierFreeGuidance(3.0), ascent_steps=2, **options)
    step, trace = steps("v_prediction")[1], Trace()
    with FakeTensorMode():
        step.denoised, step.noise, step.kernel = ((torch.tensor(0.5), torch.tensor(0.4)) for _ in range(3))
        tensors = [torch.empty(2, 4, 6, 6) for _ in range(3)]
        guided, measured = rule.guide(*tensors, step)
        trace.append(step, 2, 2, measured)
    assert guided.shape == (2, 4, 6, 6)
