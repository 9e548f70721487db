"""What callers do that the pipelines of the table do not: shared weights, embeddings and classes of their own."""

import warnings
from typing import Any

import pytest
import tiny_parts as parts
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, FluxPipeline, IPNDMScheduler, StableDiffusionPipeline
from diffusers.callbacks import SDCFGCutoffCallback
from tiny import BETAS, FAMILIES, sd
from tiny_family import Family, seeded
from torch import Tensor, nn

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide
from diffguide.pipelines.answering import answer
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.freezing import checkpoint, freeze

BY_NAME: dict[str, Family] = {family.name: family for family in FAMILIES}


def test_another_pipeline_in_the_middle_of_a_saved_evaluation() -> None:
    """As a thread that shares the transformer would be: between the hook before a call and the call itself."""
    family = BY_NAME["flux"]
    first, second = family.build(), family.build()
    second.transformer = first.transformer
    assert isinstance(second, FluxPipeline)
    given = {"negative_prompt": [""], "prompt": ["dog"]}
    expected = family.run(first, **given, true_cfg_scale=1.0), family.run(first, true_cfg_scale=1.0)
    found: list[Tensor] = []

    def between(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append(len(found))
        if len(calls) == 2:  # the first pipeline's second call, which is answered
            with guide(second, ClassifierFreeGuidance(1.0)) as other:
                found.append(family.run(other))

    calls: list[int] = []
    with guide(first, ClassifierFreeGuidance(1.0)) as guided:
        native = type(first).__mro__[1].__call__

        def hooked(*args: Any, **kwargs: Any) -> Any:
            hook = first.transformer.register_forward_pre_hook(between, with_kwargs=True)
            try:
                return native(*args, **kwargs)
            finally:
                hook.remove()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(guided, "_native", type("Hooked", (guided._native,), {"__call__": hooked}))
            ours = family.run(guided, **given)
    torch.testing.assert_close(ours, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0], expected[1], rtol=0, atol=1e-5)
    assert "forward" not in vars(first.transformer)


def test_answers_end_in_whatever_order() -> None:
    module, on = nn.Linear(1, 1), {"a": True, "b": False}
    own = module(torch.ones(1))
    end_a, end_b = answer(module, "a", lambda: on["a"]), answer(module, "b", lambda: on["b"])
    assert module(torch.ones(1)) == "a"
    end_a()
    assert module(torch.ones(1)) == own
    on["b"] = True
    assert module(torch.ones(1)) == "b"
    end_b()
    assert module(torch.ones(1)) == own
    assert vars(module).keys() == vars(nn.Linear(1, 1)).keys()


def test_frozen_until_the_last_has_ended() -> None:
    module = parts.kl_vae()
    for change, changed in (
        (freeze, lambda: not any(parameter.requires_grad for parameter in module.parameters())),
        (checkpoint, lambda: module.decoder.gradient_checkpointing),
    ):
        first, second = change(module), change(module)
        first()
        assert changed()
        second()
        assert not changed()


class TwoCallsOfAUnet(DiffusionPipeline):
    """A class of one's own: it hands its UNet what it hands it by place, and is known to no table."""

    uncond_first = False

    def __init__(self, unet: Any, scheduler: Any):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, guidance_scale: float = 5.0) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(2, 4, 8, 8, generator=generator)
        text, empty = torch.randn(2, 2, 5, 32, generator=generator)[..., : self.unet.config.cross_attention_dim]
        self.scheduler.set_timesteps(4)
        for t in self.scheduler.timesteps:
            order = (empty, text) if self.uncond_first else (text, empty)
            made = [self.unet(z, t, embedding).sample for embedding in order]
            cond, uncond = reversed(made) if self.uncond_first else made
            z = self.scheduler.step(uncond + guidance_scale * (cond - uncond), t, z).prev_sample
        return z


def two_calls_of_a_unet() -> Any:
    return seeded(lambda: TwoCallsOfAUnet(parts.unet(), DDIMScheduler(**BETAS, clip_sample=False)))


def test_a_class_of_ones_own_with_two_calls_of_a_unet() -> None:
    pipe = two_calls_of_a_unet()
    native, off = pipe(), pipe(guidance_scale=1.0)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        torch.testing.assert_close(guided(), native, rtol=0, atol=1e-5)
        assert guided.trace.evaluations == 8
        guided.guidance = ClassifierFreeGuidance(1.0)
        torch.testing.assert_close(guided(), off, rtol=0, atol=1e-5)
        assert guided.trace.evaluations == 4
        guided.guidance = AdaptiveProjectedGuidance(5.0)
        assert (guided() - native).abs().max() > 1e-3


def test_a_class_that_predicts_the_unconditional_first_is_told_so() -> None:
    pipe = two_calls_of_a_unet()
    pipe.uncond_first = True
    with (
        guide(pipe, ClassifierFreeGuidance(5.0)) as guided,
        pytest.raises(UserError, match="the unconditional predic"),
    ):
        guided()


def test_a_call_of_another_name() -> None:
    def sped_up(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        return StableDiffusionPipeline.__call__.__wrapped__(pipe, *args, **kwargs)

    class Patched(StableDiffusionPipeline):
        pass

    def own(this: Any, guidance_scale: float = 5.0) -> Tensor:
        return TwoCallsOfAUnet.__call__.__wrapped__(this, guidance_scale)

    family, pipe = BY_NAME["sd"], seeded(lambda: sd(Patched))
    native = family.run(pipe, guidance_scale=5.0)
    Patched.__call__ = torch.no_grad()(sped_up)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        assert torch.equal(family.run(guided), native)
    other = two_calls_of_a_unet()
    expected, other.__class__ = other(), type("Other", (TwoCallsOfAUnet,), {"__call__": torch.no_grad()(own)})
    with guide(other, ClassifierFreeGuidance(5.0)) as guided:
        torch.testing.assert_close(guided(), expected, rtol=0, atol=1e-5)


def test_the_same_embedding_for_prompt_and_negative_prompt() -> None:
    family = BY_NAME["wan21"]
    pipe = family.build()
    text = pipe.encode_prompt([""], max_sequence_length=16)[0]
    given = {"prompt": None, "prompt_embeds": text, "negative_prompt_embeds": text}
    native = family.run(pipe, guidance_scale=5.0, **given)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        torch.testing.assert_close(family.run(guided, **given), native, rtol=0, atol=1e-5)
        assert guided.trace.evaluations == 8


class Writing(StableDiffusionPipeline):
    """Evaluates its UNet once more in each step, as pipelines with a reference image do."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        step = self.scheduler.scale_model_input

        def twice(sample: Tensor, timestep: Any) -> Tensor:
            z = step(sample, timestep)
            if sample.shape[0] == 2:
                self.unet(z, timestep, encoder_hidden_states=torch.zeros(2, 16, 32)[..., :width])
            return z

        width = self.unet.config.cross_attention_dim
        self.scheduler.scale_model_input = twice
        try:
            return super().__call__(*args, **kwargs)
        finally:
            del self.scheduler.scale_model_input


def test_more_evaluations_than_steps_are_warned_of() -> None:
    family, pipe = BY_NAME["sd"], seeded(lambda: sd(Writing))
    with (
        guide(pipe, AdaptiveProjectedGuidance(5.0)) as guided,
        pytest.warns(UserWarning, match="more often than its"),
    ):
        family.run(guided)
    plain = family.build()
    with guide(plain, AdaptiveProjectedGuidance(5.0)) as guided, warnings.catch_warnings():
        warnings.simplefilter("error")
        family.run(guided)
        family.run(guided)


def test_a_callback_of_diffusers_has_the_tensors_that_it_asks_for() -> None:
    class Stepping(ClassifierFreeGuidance):
        def after_step(self, latents: Tensor, step: Any) -> Tensor:
            return latents

    family = BY_NAME["sd"]
    pipe = family.build()
    cutoff = {"callback_on_step_end": SDCFGCutoffCallback(cutoff_step_ratio=0.5)}
    native = family.run(pipe, guidance_scale=5.0, **cutoff, callback_on_step_end_tensor_inputs=["latents"])
    with guide(pipe, Stepping(5.0)) as guided:
        ours = family.run(guided, **cutoff, callback_on_step_end_tensor_inputs=["latents"])
        assert torch.equal(ours, native)
        assert [record.evaluations for record in guided.trace] == [2, 2, 2, 1]


def test_a_scheduler_without_noise_levels_that_took_over_a_prediction_type() -> None:
    family, pipe = BY_NAME["sd"], BY_NAME["sd"].build()
    pipe.scheduler = IPNDMScheduler.from_config(pipe.scheduler.config)
    native = family.run(pipe, guidance_scale=5.0)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        assert torch.equal(family.run(guided), native)
        guided.guidance = AdaptiveProjectedGuidance(5.0)
        with pytest.raises(ValueError, match="gives no way from its epsilon prediction to the denoised space"):
            family.run(guided)


def test_a_strength_that_leaves_no_step() -> None:
    family = BY_NAME["sd-img2img"]
    with (
        guide(family.build(), ClassifierFreeGuidance(5.0)) as guided,
        pytest.raises(UserError, match="sampled no step"),
    ):
        family.run(guided, strength=0.1)
