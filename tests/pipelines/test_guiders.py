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
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    SmoothedEnergyGuidanceConfig,
    TangentialClassifierFreeGuidance,
)
from diffusers import guiders as library
from guiders_made import BY_NAME, STEPS, layers, where
from tiny_slots import modular, run_modular
from torch import Tensor

from diffguide import guidance as rules
from diffguide.pipelines import guide


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
