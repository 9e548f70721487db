"""A rule beside what else people attach to a pipeline: other handles, copies, threads, changes between calls."""

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import tiny_parts as parts
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionPipeline,
)
from tiny import FAMILIES, sd
from tiny_family import seeded
from torch import Tensor

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide

BY_NAME = {family.name: family for family in FAMILIES}


SD = BY_NAME["sd"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # importing diffusers' Kolors
def test_auto_pipeline() -> None:
    from diffusers import AutoPipelineForText2Image

    pipe = AutoPipelineForText2Image.from_pipe(SD.build())
    pipe.set_progress_bar_config(disable=True)
    native = SD.run_native(pipe, 5.0)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        assert torch.equal(SD.run(guided), native)


def test_several_handles_at_a_time() -> None:
    first, second = SD.build(), BY_NAME["flux"].build()
    expected = [SD.run_native(first, 5.0), BY_NAME["flux"].run_native(second, 3.0)]
    one, other = guide(first, ClassifierFreeGuidance(5.0)), guide(second, ClassifierFreeGuidance(3.0))
    for _ in range(2):
        assert torch.equal(SD.run(one), expected[0])
        assert torch.equal(BY_NAME["flux"].run(other), expected[1])
    one.remove()
    assert torch.equal(BY_NAME["flux"].run(other), expected[1])
    other.remove()
    assert torch.equal(SD.run_native(first, 5.0), expected[0])


def test_threads_with_a_pipeline_each() -> None:
    rules = [ClassifierFreeGuidance(5.0), AdaptiveProjectedGuidance(5.0), ClassifierFreeGuidance(1.0)]

    def call(pipe: Any, rule: Any) -> Tensor:
        """Without the global random state, which threads share."""
        with guide(pipe, rule) as guided:
            return guided(
                "red apple", num_inference_steps=6, output_type="latent", generator=torch.Generator().manual_seed(0)
            )[0]

    expected = [call(SD.build(), rule) for rule in rules]
    results: list[Any] = [None] * len(rules)
    pipes = [SD.build() for _ in rules]

    def work(k: int) -> None:
        for _ in range(3):
            results[k] = call(pipes[k], rules[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(rules))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, one in zip(results, expected, strict=True):
        assert torch.equal(result, one)


@pytest.mark.parametrize("kind", ["deepcopy", "copy", "pickle"])
def test_a_copy_of_a_guided_pipeline_is_a_plain_one(kind: str) -> None:
    pipe = SD.build()
    native = SD.run_native(pipe, 3.0)
    with guide(pipe, AdaptiveProjectedGuidance(5.0)) as guided:
        ours = SD.run(guided)
        made = {
            "deepcopy": lambda: copy.deepcopy(pipe),
            "copy": lambda: copy.copy(pipe),
            "pickle": lambda: pickle.loads(pickle.dumps(pipe)),
        }[kind]()
        assert type(made) is StableDiffusionPipeline
        assert torch.equal(SD.run_native(made, 3.0), native)
        with guide(made, ClassifierFreeGuidance(3.0)) as second:
            assert torch.equal(SD.run(second), native)
            assert torch.equal(SD.run(guided), ours)


def test_saved_while_guided(tmp_path: Path) -> None:
    pipe = SD.build()
    native = SD.run_native(pipe, 3.0)
    with guide(pipe, AdaptiveProjectedGuidance(5.0)):
        pipe.save_pretrained(tmp_path)
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None, requires_safety_checker=False)
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(SD.run_native(loaded, 3.0), native, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["sd", "flux", "wan21"])
def test_what_may_change_between_calls(name: str) -> None:
    """Each call is that of a fresh pipeline, whatever the one before was like."""
    family = BY_NAME[name]
    schedulers = {
        "sd": [DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler],
        "wan21": [DPMSolverMultistepScheduler],
    }.get(name, [])
    calls: list[dict[str, Any]] = [{}, {"steps": 7}, {"prompts": 2, "images": 2}, {"height": 32, "width": 48}, {}]
    rule, pipe = AdaptiveProjectedGuidance(5.0), family.build()
    with guide(pipe, rule) as guided:
        for scheduler in [None, *schedulers]:
            if scheduler is not None:
                pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
            for call in calls:
                fresh = family.build()
                if scheduler is not None:
                    fresh.scheduler = scheduler.from_config(fresh.scheduler.config)
                with guide(fresh, rule) as other:
                    expected = family.run(other, **call)
                assert torch.equal(family.run(guided, **call), expected)


def test_a_denoiser_put_into_the_pipeline_while_guided() -> None:
    pipe, rule = SD.build(), ClassifierFreeGuidance(5.0)
    with guide(pipe, rule) as guided:
        first = SD.run(guided)
        other = SD.build()
        other.unet = pipe.unet = seeded(lambda: sd(unet=parts.unet(layers_per_block=2))).unet
        ours = SD.run(guided)
    assert torch.equal(ours, SD.run_native(other, 5.0))
    assert not torch.equal(ours, first)
