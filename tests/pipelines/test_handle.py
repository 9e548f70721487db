"""The handle of a guided pipeline: what can be set on it, and what is left of it."""

import gc
import weakref

import pytest
from diffusers import EulerDiscreteScheduler
from tiny import FAMILIES

from diffguide.guidance import ClassifierFreeGuidance
from diffguide.pipelines import guide

FAMILY = next(family for family in FAMILIES if family.name == "sd")


def test_settings_are_those_of_the_pipeline() -> None:
    pipe = FAMILY.build()
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        with pytest.raises(AttributeError, match=r"set guided\.pipe\.scheduler"):
            guided.scheduler = EulerDiscreteScheduler()
        with pytest.raises(AttributeError, match=r"has no 'to': its pipeline, guided\.pipe, may have it"):
            guided.to("cpu")
        guided.guidance, guided.checkpointing = ClassifierFreeGuidance(3.0), False
        assert (guided.guidance.guidance_scale, pipe.diffguide.checkpointing) == (3.0, False)


@pytest.mark.parametrize("called", [False, True])
def test_a_pipeline_that_was_guided_is_freed_with_its_last_name(called: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        pipe = FAMILY.build()
        guided = guide(pipe, ClassifierFreeGuidance(5.0))
        if called:
            FAMILY.run(guided)
        guided.remove()
        guided.remove()
        left = weakref.ref(pipe.unet)
        del pipe, guided
        assert left() is None
    finally:
        gc.enable()
