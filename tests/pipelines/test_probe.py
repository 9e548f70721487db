"""Pipelines that the table does not know (here: known ones, taken out of it): probed, or refused with what was seen."""

import functools
from typing import Any

import pytest
import torch
from families import BATCHED
from test_parity import assert_clean
from tiny import FAMILIES, sd
from tiny_family import Family, seeded
from tiny_parts import unet

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide, table
from diffguide.pipelines.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")
BY_NAME = {family.name: family for family in (*FAMILIES, *BATCHED)}
PROBED = {
    "sd": ("uncond-first", 0.0),
    "sd-inpaint-9": ("uncond-first", 0.0),
    "sd-controlnet": ("uncond-first", 0.0),
    "sdxl": ("uncond-first", 0.0),
    "sd3": ("uncond-first", 0.0),
    "pixart-sigma": ("uncond-first", 0.0),
    "dit": ("cond-first", 0.0),
    "hidream": ("uncond-first", 0.0),
    "z-image": ("cond-first", 1.0),
    "kandinsky3": ("uncond-first", 1.0),
    "animatediff": ("uncond-first", 0.0),
    "ltx": ("uncond-first", 0.0),
    "shap-e": ("uncond-first", 0.0),
    "flux": ("two", 0.0),
    "wan21": ("two", 0.0),
}


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_BY_CLASS", {})


def test_a_step_that_others_have_put_on_the_scheduler_is_there_again(unknown: None) -> None:
    family = BY_NAME["sd"]
    pipe = family.build()
    native = pipe.scheduler.step

    @functools.wraps(native)
    def own(*args: Any, **kwargs: Any) -> Any:
        return native(*args, **kwargs)

    pipe.scheduler.step = own
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        family.run(guided)
    assert pipe.scheduler.step is own


@pytest.mark.parametrize("name", PROBED)
def test_probed_pipeline_is_guided_from_its_first_call_on(name: str, unknown: None) -> None:
    family = BY_NAME[name]
    pipe = family.build()
    native, off = family.run_native(pipe, 5.0), family.run_native(pipe, family.off)
    with guide(pipe, family.native(5.0)) as guided:
        first = family.run(guided)
        assert (guided.layout.calls, guided.layout.offset) == PROBED[name]
        assert guided.layout.denoisers == family.denoisers
        tolerance = 1e-5 * max(1.0, native.abs().max().item())
        torch.testing.assert_close(first, native, rtol=0, atol=tolerance)
        assert torch.equal(family.run(guided), first)
        guided.guidance = ClassifierFreeGuidance(1.0)
        torch.testing.assert_close(family.run(guided), off, rtol=0, atol=tolerance)
        guided.guidance = AdaptiveProjectedGuidance(5.0)
        assert (family.run(guided) - first).abs().max() > 1e-3
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            assert_clean(part)
    assert "step" not in vars(pipe.scheduler)
    assert torch.equal(family.run_native(pipe, 5.0), native)


def refused(family: Family, pipe: Any, words: str) -> None:
    native = family.run_native(pipe, 5.0)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided, pytest.raises(UserError, match=words) as caught:
        family.run(guided)
    assert "\n" not in str(caught.value)
    assert torch.equal(family.run_native(pipe, 5.0), native)


@pytest.mark.parametrize("name", ["qwen", "sd-pix2pix"])
def test_what_no_pair_of_predictions_explains(name: str, unknown: None) -> None:
    """Qwen-Image matches norms, InstructPix2Pix combines three."""
    family = BY_NAME[name]
    refused(family, family.build(), "seen before its first step: .* with .* rows")


def test_guidance_that_is_distilled(unknown: None) -> None:
    family = BY_NAME["sd"]
    refused(family, seeded(lambda: sd(unet=unet(time_cond_proj_dim=16))), "unet with 1 rows")
