"""Guiders with passes of their own in classic pipelines, what they skip, and what they cannot do."""

from typing import Any

import pytest
import torch
from diffusers import (
    AutoGuidance,
    ClassifierFreeGuidance,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
)
from families_image import FAMILIES as IMAGES
from families_worlds import WORLDS
from guiders_made import BY_NAME, STEPS, layers, where
from tiny_family import Family
from torch import Tensor

from diffguide import guidance as rules
from diffguide.pipelines import guide

FAMILY_NAMES = ["sd", "sdxl", "sd3", "flux", "qwen", "wan21", "wan22"]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_plain_guidance_is_native(name: str) -> None:
    family = BY_NAME[name]
    pipe = family.build()
    native = family.run_native(pipe, 5.0, prompts=2, images=2)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        ours = family.run(guided, prompts=2, images=2)
        if name == "qwen":  # whose native guidance matches norms, which is the identity under a rule
            guided.guidance = rules.ClassifierFreeGuidance(5.0)
            native = family.run(guided, prompts=2, images=2)
    torch.testing.assert_close(ours, native, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("kind", ["skip", "auto"])
def test_passes_of_their_own(name: str, kind: str) -> None:
    """Each in a call of its own, and the denoiser is as it was before; without the classifier-free part as well."""
    family = BY_NAME[name]
    pipe = family.build()
    native = family.run_native(pipe, 5.0)
    before = [set(vars(part)) for module in family.modules(pipe) for part in module.modules()]
    config = {"skip_layer_config": layers(name), **STEPS}
    guider = (
        SkipLayerGuidance(5.0, **config) if kind == "skip" else AutoGuidance(5.0, auto_guidance_config=layers(name))
    )
    said = repr(guider)
    with guide(pipe, guider) as guided:
        ours = family.run(guided, prompts=2, images=2)
        assert torch.equal(family.run(guided, prompts=2, images=2), ours)
        expected = [2, 3, 3, 3] if kind == "skip" else [2, 2, 2, 2]
        assert [record.evaluations for record in guided.trace] == expected
        assert all(record.cosine.isfinite().all() for record in guided.trace)
        if kind == "skip":
            guided.guidance = SkipLayerGuidance(1.0, **config)
            alone = family.run(guided)
            assert [record.evaluations for record in guided.trace] == [1, 2, 2, 2]
            assert (alone - native).abs().max() > 1e-3
            assert (alone - family.run(guided, prompt=["dog"])).abs().max() > 1e-4
    assert ours.isfinite().all()
    assert repr(guider) == said
    assert before == [set(vars(part)) for module in family.modules(pipe) for part in module.modules()]
    assert torch.equal(family.run_native(pipe, 5.0), native)


@pytest.mark.parametrize("name", ["sd3", "flux", "qwen"])
def test_a_skipped_block_hands_on_what_it_was_given(name: str) -> None:
    """Against the block made the identity by hand; these return (encoder, hidden), which diffusers mixes up."""
    family = BY_NAME[name]
    pipe = family.build()
    block = getattr(pipe.transformer, where(name))[0]
    seen: list[Any] = []

    def record(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        seen.append((kwargs["encoder_hidden_states"], kwargs["hidden_states"]))

    def identity(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        return seen[-1]

    def conditional() -> Tensor:
        """What the denoiser says in the only step of a call without guidance."""
        made: list[Tensor] = []
        hook = pipe.transformer.register_forward_hook(lambda module, args, output: made.append(output[0]))
        family.run_native(pipe, 1.0, steps=1)
        hook.remove()
        return made[0]

    hooks = [
        block.register_forward_pre_hook(record, with_kwargs=True),
        block.register_forward_hook(identity, with_kwargs=True),
    ]
    skipped = conditional()
    for hook in hooks:
        hook.remove()
    plain = conditional()
    found: list[tuple[Tensor, Tensor]] = []

    class Recording(SkipLayerGuidance):
        def forward(self, pred_cond: Tensor, pred_uncond: Any = None, pred_cond_skip: Any = None) -> Any:
            if pred_cond_skip is not None:
                found.append((pred_cond.clone(), pred_cond_skip))
            return super().forward(pred_cond, pred_uncond, pred_cond_skip)

        def _is_slg_enabled(self) -> bool:
            return True

    with guide(pipe, Recording(5.0, skip_layer_config=layers(name))) as guided:
        family.run(guided, steps=1)
    torch.testing.assert_close(found[0][0], plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0][1], skipped, rtol=0, atol=1e-5)
    assert (plain - skipped).abs().max() > 1e-3


def test_a_pass_of_its_own_is_seen_where_the_others_are() -> None:
    """PixArt says how sure it is as well, in channels that no guider gets."""
    family = next(family for family in IMAGES if family.name == "pixart-sigma")
    with guide(family.build(), ClassifierFreeGuidance(5.0)) as guided:
        plain = family.run(guided)
        guided.guidance = SkipLayerGuidance(5.0, skip_layer_config=layers("pixart"), **STEPS)
        assert (family.run(guided) - plain).abs().max() > 1e-3
        assert [record.evaluations for record in guided.trace] == [2, 3, 3, 3]


def test_a_pipeline_that_refuses_a_guider_is_left_as_it_was() -> None:
    family = next(family for family in WORLDS if family.name == "kandinsky6")
    pipe = family.build()
    attributes = set(vars(pipe))
    with (
        guide(pipe, SkipLayerGuidance(5.0, skip_layer_config=layers("kandinsky6"), **STEPS)) as guided,
        pytest.raises(ValueError, match="acts on one prediction"),
    ):
        family.run(guided)
    assert set(vars(pipe)) == attributes


def test_layers_by_number() -> None:
    """In diffusers a TypeError: its own hooks cannot read the configuration that it makes of them."""
    family = BY_NAME["sd3"]
    with guide(family.build(), SkipLayerGuidance(5.0, skip_layer_guidance_layers=[0], **STEPS)) as guided:
        ours = family.run(guided)
        guided.guidance = SkipLayerGuidance(5.0, skip_layer_config=layers("sd3"), **STEPS)
        assert torch.equal(family.run(guided), ours)


def test_dropout_of_a_pair_of_outputs() -> None:
    """AutoGuidance on Stable Diffusion 3; no dropout is plain guidance of the same model, that is no guidance."""
    family: Family = BY_NAME["sd3"]
    pipe = family.build()
    with guide(pipe, AutoGuidance(5.0, auto_guidance_layers=[0], dropout=0.5)) as guided:
        assert family.run(guided).isfinite().all()


@pytest.mark.parametrize(
    ("name", "guider", "said"),
    [
        ("sd3", PerturbedAttentionGuidance(5.0, perturbed_guidance_layers=[0]), "not registered"),
        ("sd", SkipLayerGuidance(5.0, skip_layer_guidance_layers=[0], **STEPS), "suitable identifier"),
        ("sd3", SkipLayerGuidance(5.0, skip_layer_guidance_layers=[7], **STEPS), r"indices \[7\]"),
    ],
)
def test_what_a_guider_cannot_do_is_an_error_that_says_so(name: str, guider: Any, said: str) -> None:
    family = BY_NAME[name]
    if isinstance(guider, PerturbedAttentionGuidance):
        guider.skip_layer_guidance_start, guider.skip_layer_guidance_stop = 0.0, 1.0
    pipe = family.build()
    native = family.run_native(pipe, 5.0)
    with (
        guide(pipe, guider) as guided,
        pytest.raises(ValueError, match=f"{type(guider).__name__} cannot act in.*{said}"),
    ):
        family.run(guided)
    assert torch.equal(family.run_native(pipe, 5.0), native)


def test_an_exception_inside_a_pass_leaves_nothing_behind() -> None:
    family = BY_NAME["sd3"]
    pipe = family.build()
    native, calls = family.run_native(pipe, 5.0), []

    def fail(module: torch.nn.Module, args: Any) -> None:
        calls.append(module)
        if len(calls) == 5:  # in the perturbed pass of the second step
            raise RuntimeError("stop")

    hook = pipe.transformer.proj_out.register_forward_pre_hook(fail)
    with guide(pipe, SkipLayerGuidance(5.0, skip_layer_config=layers("sd3"), **STEPS)) as guided:
        with pytest.raises(RuntimeError, match="stop"):
            family.run(guided)
        hook.remove()
        assert len(calls) == 5
    for part in pipe.transformer.modules():
        assert "forward" not in vars(part)
        assert "_diffusers_hook" not in vars(part) or not part._diffusers_hook.hooks
        assert not part._forward_hooks
    assert torch.equal(family.run_native(pipe, 5.0), native)
