"""Pipelines without an unconditional prediction, and those whose own guidance a rule that needs none leaves off."""

import warnings
from typing import Any

import pytest
import tiny_parts as parts
import torch
from diffusers import DPMSolverMultistepScheduler
from families_sana import sana
from tiny import BETAS, sd
from tiny import FAMILIES as WITH_GUIDANCE
from tiny_family import Family, seeded
from tiny_single import SINGLE, Looking

from diffguide.guidance import ClassifierFreeGuidance
from diffguide.pipelines import guide
from diffguide.pipelines.errors import UserError

EXACT = ("flux-control", "flux-fill", "sana-sprint")
"""Whose last step goes to x0 as the model predicts it; LCMScheduler mixes in a little of its input."""


@pytest.mark.parametrize("family", SINGLE, ids=str)
def test_the_conditional_prediction_is_what_a_rule_sees(family: Family) -> None:
    pipe = family.build()
    native, seen = family.run(pipe), Looking()
    with guide(pipe, seen) as guided:
        assert torch.equal(family.run(guided), native)
        assert [record.evaluations for record in guided.trace] == [1] * len(seen.steps)
        with pytest.raises(
            UserError,
            match=r"^ClassifierFreeGuidance.* cannot act in .* distilled into the model.*; nag and reward can$",
        ):
            guided.guidance = ClassifierFreeGuidance(5.0)
    with pytest.raises(
        UserError, match=r"^ClassifierFreeGuidance.* cannot act in .* distilled into the model.*; nag and reward can$"
    ):
        guide(pipe, ClassifierFreeGuidance(5.0))
    x0 = seen.denoised[-1]
    torch.testing.assert_close(x0, native, rtol=0, atol=1e-5 if family.name in EXACT else 2e-3 * native.abs().max())
    assert torch.equal(family.run(pipe), native)


@pytest.mark.parametrize("family", SINGLE[:1], ids=str)
def test_scale_that_is_an_input_of_the_model_is_the_callers(family: Family) -> None:
    pipe = family.build()
    native = [family.run(pipe, guidance_scale=scale) for scale in (2.0, 8.5)]
    assert not torch.equal(*native)
    with guide(pipe, Looking()) as guided:
        for scale, expected in zip((2.0, 8.5), native):
            assert torch.equal(family.run(guided, guidance_scale=scale), expected)
    distilled = seeded(lambda: sd(unet=parts.unet(time_cond_proj_dim=16)))
    native = [family.run(distilled, guidance_scale=scale) for scale in (2.0, 8.5)]
    assert not torch.equal(*native)
    with guide(distilled, Looking()) as guided:
        for scale, expected in zip((2.0, 8.5), native):
            assert torch.equal(family.run(guided, guidance_scale=scale), expected)


@pytest.mark.parametrize("family", WITH_GUIDANCE, ids=str)
def test_guidance_of_the_pipeline_is_off(family: Family) -> None:
    pipe = family.build()
    off, rule = family.run(pipe, prompts=2, images=2, **{family.scale: family.off}), Looking()
    with guide(pipe, rule) as guided:
        assert torch.equal(family.run(guided, prompts=2, images=2), off)
        assert [record.evaluations for record in guided.trace] == [1] * len(rule.steps)
        assert {len(x0) for x0 in rule.denoised} == {4}
        assert rule.steps[0].prompts == ("red apple", "red apple", "dog", "dog")
        with pytest.warns(UserWarning, match=rf"{family.scale}=4.0 is not used"):
            family.run(guided, **{family.scale: 4.0})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            family.run(guided, **{family.scale: family.off})


def test_a_negative_prompt_without_guidance_is_said_to_do_nothing() -> None:
    family = WITH_GUIDANCE[0]
    pipe = family.build()
    off = family.run(pipe, **{family.scale: family.off})
    with guide(pipe, Looking()) as guided, pytest.warns(UserWarning, match="negative_prompt is not used"):
        assert torch.equal(family.run(guided, negative_prompt="worm"), off)


def test_prompts_are_unknown_where_embeddings_are_given() -> None:
    family, rule = WITH_GUIDANCE[0], Looking()
    pipe = family.build()
    states = pipe.encode_prompt("dog", "cpu", 1, False)[0]
    with guide(pipe, rule) as guided:
        family.run(guided, prompt=None, prompt_embeds=states)
    assert rule.steps[0].prompts == ()


@pytest.mark.parametrize("make", [lambda: seeded(sd), lambda: seeded(sana)], ids=["positional", "keyword"])
def test_evaluating_again_is_the_model_itself(make: Any) -> None:
    """At the model input of the step it gives what the model said; elsewhere its gradient is the model's."""
    found = []

    class Again(Looking):
        def guide_cond(self, cond: Any, latents: Any, step: Any) -> Any:
            with torch.enable_grad():
                z = latents.clone().requires_grad_(True)
                again = step.evaluate(z)
                direction = torch.ones_like(again)
                (gradient,) = torch.autograd.grad(again, z, direction)
            h = 1e-2
            slope = (step.evaluate(z.detach() + h) - step.evaluate(z.detach() - h)).sum() / (2 * h)
            found.append((again.detach(), cond.clone(), gradient.sum(), slope))
            return cond

    pipe = make()
    family = next(f for f in (*WITH_GUIDANCE, *SANA) if isinstance(pipe, type(f.make())))
    before = {name: p.requires_grad for name, p in getattr(pipe, family.denoisers[0]).named_parameters()}
    with guide(pipe, Again()) as guided:
        family.run(guided)
    for again, cond, gradient, slope in found:
        torch.testing.assert_close(again, cond, rtol=0, atol=1e-6)
        torch.testing.assert_close(gradient, slope, rtol=2e-2, atol=2e-2)
    after = getattr(pipe, family.denoisers[0])
    assert {name: p.requires_grad for name, p in after.named_parameters()} == before
    assert all(p.grad is None for p in after.parameters())


SANA = (
    Family(
        "sana",
        sana,
        "flow",
        SINGLE[-1].inputs,
        {"height": 32, "width": 32, "use_resolution_binning": False},
        denoisers=("transformer",),
    ),
)


def test_under_inference_mode_there_are_gradients() -> None:
    class Graded(Looking):
        def guide_cond(self, cond: Any, latents: Any, step: Any) -> Any:
            with torch.enable_grad():
                z = latents.clone().requires_grad_(True)
                (gradient,) = torch.autograd.grad(step.decode(step.evaluate(z)).sum(), z)
            assert gradient.any()
            return cond

    family = WITH_GUIDANCE[0]
    pipe = family.build()
    with torch.inference_mode(), guide(pipe, Graded()) as guided:
        family.run(guided, num_inference_steps=1)


def test_few_steps_of_a_turbo_model() -> None:
    """One step, guidance off natively: nothing is doubled."""
    family = WITH_GUIDANCE[0]
    scheduler = DPMSolverMultistepScheduler(**BETAS, timestep_spacing="trailing", steps_offset=1)
    pipe = seeded(lambda: sd(scheduler=scheduler))
    native = family.run(pipe, steps=1, guidance_scale=0.0)
    rows: list[int] = []
    with guide(pipe, Looking()) as guided:
        hook = pipe.unet.conv_in.register_forward_hook(lambda module, args, output: rows.append(len(output)))
        assert torch.equal(family.run(guided, steps=1, guidance_scale=0.0), native)
        hook.remove()
    assert rows == [1]
