"""A rule that acts on the latents after each step of the scheduler."""

from typing import Any

import pytest
import torch
from tiny import FAMILIES
from tiny_family import Family
from tiny_variants import VARIANTS
from torch import Tensor

from diffguide.guidance import ClassifierFreeGuidance, Step
from diffguide.pipelines import guide
from diffguide.pipelines.errors import UserError


class Shifted(ClassifierFreeGuidance):
    """Plain guidance that adds 0.1 to the latents after every step, and remembers what it was given."""

    def __init__(self, guidance_scale: float = 5.0):
        super().__init__(guidance_scale)
        self.seen: list[tuple[int, Tensor]] = []

    def after_step(self, latents: Tensor, step: Step) -> Tensor:
        self.seen.append((step.index, latents.clone()))
        return latents + 0.1


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


def shift(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"latents": tensors["latents"] + 0.1}


def test_after_step_is_a_callback(family: Family) -> None:
    """The same as the native run with a callback of the user that does the same."""
    pipe = family.build()
    native = family.run_native(pipe, 5.0, callback_on_step_end=shift)
    with guide(pipe, Shifted()) as guided:
        if family.name == "qwen":  # its native guidance matches norms as well
            guided.guidance = ClassifierFreeGuidance(5.0)
            native = family.run(guided, callback_on_step_end=shift)
            guided.guidance = Shifted()
        ours = family.run(guided)
    torch.testing.assert_close(ours, native, rtol=0, atol=1e-6)


def test_user_sees_the_latents_afterwards(family: Family) -> None:
    pipe = family.build()
    seen: list[tuple[Any, list[str], Tensor]] = []

    def look(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((pipe, sorted(tensors), tensors["latents"].clone()))
        return {}

    rule = Shifted()
    with guide(pipe, rule) as guided:
        ours = family.run(guided, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["prompt_embeds"])
        assert [index for index, _ in rule.seen] == list(range(len(guided.trace)))
    assert len(seen) == len(rule.seen) == len(guided.trace)
    for (who, names, latents), (_, before) in zip(seen, rule.seen):
        assert who is pipe
        assert names == ["latents", "prompt_embeds"]
        assert torch.equal(latents, before + 0.1)
    if family.name != "sd-inpaint-4":  # which puts the known part of the picture back
        assert torch.equal(ours, seen[-1][2])


def test_user_has_the_last_word(family: Family) -> None:
    pipe = family.build()

    def clear(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": torch.zeros_like(tensors["latents"])}

    rule = Shifted()
    with guide(pipe, rule) as guided:
        ours = family.run(guided, callback_on_step_end=clear)
    assert not ours.any()
    assert len(rule.seen) == len(guided.trace)


def test_pipeline_without_a_callback_is_refused() -> None:
    adapter = next(variant for variant in VARIANTS if variant.name == "sd-adapter")
    pipe = adapter.build()
    with guide(pipe, Shifted()) as guided:
        with pytest.raises(
            UserError, match="Shifted acts after each step, where StableDiffusionAdapterPipeline has no"
        ):
            adapter.run(guided)
        guided.guidance = ClassifierFreeGuidance(5.0)
        assert adapter.run(guided).isfinite().all()
