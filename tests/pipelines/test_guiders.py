"""diffusers' guiders in classic pipelines, against the same guider in the Modular pipeline."""

import copy
from typing import Any

import pytest
import torch
from diffusers import (
    AdaptiveProjectedGuidance,
    AutoGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    LayerSkipConfig,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    SmoothedEnergyGuidanceConfig,
    TangentialClassifierFreeGuidance,
)
from diffusers import guiders as library
from tiny import FAMILIES, Family
from tiny_slots import modular, run_modular
from torch import Tensor

from diffguide import guidance as rules
from diffguide.pipelines import guide

BY_NAME = {family.name: family for family in FAMILIES}
FAMILY_NAMES = ["sd", "sdxl", "sd3", "flux", "qwen", "wan21", "wan22"]
STEPS = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}


def where(name: str) -> str:
    """The blocks of a denoiser, as guiders want them named."""
    return "down_blocks.1.attentions.0.transformer_blocks" if name in ("sd", "sdxl") else "transformer_blocks"


def layers(name: str = "sdxl", **options: Any) -> LayerSkipConfig:
    return LayerSkipConfig([0], fqn="blocks" if name.startswith("wan") else where(name), **options)


def perturbed(scale: float = 5.0) -> PerturbedAttentionGuidance:
    config = layers(skip_attention=False, skip_attention_scores=True, skip_ff=False)
    steps = {"perturbed_guidance_start": 0.0, "perturbed_guidance_stop": 1.0}
    return PerturbedAttentionGuidance(scale, perturbed_guidance_config=config, **steps)


def blurred() -> SmoothedEnergyGuidance:
    return SmoothedEnergyGuidance(5.0, seg_guidance_config=SmoothedEnergyGuidanceConfig([0], fqn=where("sdxl")))


class Counting(SmoothedEnergyGuidance):
    """As it is meant: it counts its passes."""

    def prepare_models(self, denoiser: torch.nn.Module) -> None:
        self._count_prepared += 1
        super().prepare_models(denoiser)


GUIDERS = {
    "cfg": (lambda: ClassifierFreeGuidance(5.0), [2, 2, 2, 2]),
    "cfg-stops": (lambda: ClassifierFreeGuidance(5.0, stop=0.5), [2, 2, 1, 1]),
    "cfg-original": (lambda: ClassifierFreeGuidance(4.0, use_original_formulation=True), [2, 2, 2, 2]),
    "cfg-rescale": (lambda: ClassifierFreeGuidance(5.0, guidance_rescale=0.7), [2, 2, 2, 2]),
    "zero-star": (lambda: ClassifierFreeZeroStarGuidance(5.0), [2, 2, 2, 2]),
    "tangential": (lambda: TangentialClassifierFreeGuidance(5.0), [2, 2, 2, 2]),
    "apg": (
        lambda: AdaptiveProjectedGuidance(
            5.0, eta=0.0, adaptive_projected_guidance_momentum=-0.5, adaptive_projected_guidance_rescale=3.0
        ),
        [2, 2, 2, 2],
    ),
    "skip-layer": (lambda: SkipLayerGuidance(5.0, skip_layer_config=layers(), **STEPS), [2, 3, 3, 3]),
    "perturbed": (perturbed, [2, 3, 3, 3]),
    "auto": (lambda: AutoGuidance(5.0, auto_guidance_config=layers()), [2, 2, 2, 2]),
}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """SDXL, classic and Modular, with the same components."""
    pipe = BY_NAME["sdxl"].build()
    return pipe, modular("StableDiffusionXLAutoBlocks", pipe)


def both(pair: tuple[Any, Any], ours: Any, theirs: Any = None) -> tuple[Tensor, Tensor, list[int]]:
    """Final latents of `ours` in the classic and of `theirs` (default: ours) in the Modular pipeline; evaluations."""
    classic, its = pair
    with guide(classic, ours) as guided:
        result = BY_NAME["sdxl"].run(guided)
    its.update_components(guider=copy.deepcopy(theirs or ours))
    return result, run_modular(its), [record.evaluations for record in guided.trace]


@pytest.mark.parametrize("name", GUIDERS)
def test_same_as_in_the_modular_pipeline(pair: tuple[Any, Any], name: str) -> None:
    make, evaluations = GUIDERS[name]
    ours, theirs, made = both(pair, make())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert made == evaluations
    if name not in ("cfg", "cfg-original"):
        assert (ours - both(pair, ClassifierFreeGuidance(5.0))[0]).abs().max() > 1e-2


def test_apg_mix(pair: tuple[Any, Any]) -> None:
    if not hasattr(library, "AdaptiveProjectedMixGuidance"):
        pytest.skip("this diffusers has no AdaptiveProjectedMixGuidance")
    guider = library.AdaptiveProjectedMixGuidance(5.0, adaptive_projected_guidance_start_step=1)
    ours, theirs, _ = both(pair, guider)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_smoothed_energy_counts_its_passes(pair: tuple[Any, Any]) -> None:
    """As in diffusers it never does, and so does nothing."""
    config = {"seg_guidance_config": SmoothedEnergyGuidanceConfig([0], fqn=where("sdxl"))}
    ours, theirs, evaluations = both(pair, blurred(), Counting(5.0, **config))
    assert torch.equal(ours, theirs)
    assert evaluations == [2, 3, 3, 3]
    as_it_is = both(pair, blurred())[1]
    assert (ours - as_it_is).abs().max() > 1e-3


def test_magnitude_aware_is_mambo_g(pair: tuple[Any, Any]) -> None:
    """In the Modular pipeline it fails on newer torch; ours is the oracle, and that has its own."""
    if not hasattr(library, "MagnitudeAwareGuidance"):
        pytest.skip("this diffusers has no MagnitudeAwareGuidance")
    family, pipe = BY_NAME["sdxl"], pair[0]
    with guide(pipe, library.MagnitudeAwareGuidance(5.0, alpha=8.0)) as guided:
        theirs = family.run(guided, prompts=2)
        guided.guidance = rules.RatioAwareAdaptiveGuidance(5.0, alpha=8.0)
        torch.testing.assert_close(family.run(guided, prompts=2), theirs, rtol=0, atol=1e-4)


def test_frequency_decoupled(pair: tuple[Any, Any]) -> None:
    """Equal scales are plain guidance; a level outside its interval is that of the conditional prediction."""
    pytest.importorskip("kornia")
    from diffusers import FrequencyDecoupledGuidance

    ours, theirs, _ = both(pair, FrequencyDecoupledGuidance([5.0, 3.0]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    family, pipe = BY_NAME["sdxl"], pair[0]
    with guide(pipe, FrequencyDecoupledGuidance([5.0, 1.0 + 1e-6])) as guided:
        expected = family.run(guided)
        guided.guidance = FrequencyDecoupledGuidance([5.0, 9.0], stop=[1.0, 0.1])
        torch.testing.assert_close(family.run(guided), expected, rtol=0, atol=1e-4)
        guided.guidance = FrequencyDecoupledGuidance([9.0, 5.0], stop=[0.1, 1.0])
        assert family.run(guided).isfinite().all()  # diffusers: UnboundLocalError, no earlier level to take


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


def test_layers_by_number(pair: tuple[Any, Any]) -> None:
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


def test_frequencies_of_tokens_are_refused() -> None:
    pytest.importorskip("kornia")
    from diffusers import FrequencyDecoupledGuidance

    with (
        guide(BY_NAME["flux"].build(), FrequencyDecoupledGuidance([5.0, 3.0])) as guided,
        pytest.raises(ValueError, match=r"needs predictions \(B, C, H, W\)"),
    ):
        BY_NAME["flux"].run(guided)


def test_the_guider_given_is_the_guidance_of_the_handle() -> None:
    family, guider = BY_NAME["sd"], ClassifierFreeGuidance(5.0)
    pipe = family.build()
    with guide(pipe, guider) as guided:
        assert guided.guidance is guider
        first = family.run(guided)
        guider.guidance_scale = 2.0  # read again at each call
        assert not torch.equal(family.run(guided), first)
        with pytest.warns(UserWarning, match="guidance_scale=9 is not used"):
            family.run(guided, guidance_scale=9)


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
