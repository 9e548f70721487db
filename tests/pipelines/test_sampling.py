"""The scale of a request, in pipelines that count it from another end than `uncond + w (cond - uncond)`."""

import inspect
from typing import Any

import pytest
import torch
from families import BATCHED
from torch import Tensor

from diffguide.guidance import ClassifierFreeGuidance
from diffguide.pipelines import guide
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.request import Request
from diffguide.pipelines.sampling import call_arguments, make_rule

KANDINSKY = next(family for family in BATCHED if family.name == "kandinsky3")


def request(guidance: str, scale: float | None = None) -> Request:
    given = {"prompts": ["a"], "seeds": [0], "model": "x/y", "guidance": guidance, "guidance_scale": scale}
    given |= {"cpu_offload": False, "batch_size": 1}
    return Request(**dict.fromkeys(inspect.signature(Request).parameters) | given)


def of_the_pipeline(pipe: Any) -> float:
    return inspect.signature(type(pipe).__call__).parameters["guidance_scale"].default


def test_the_default_of_the_pipeline_is_the_same_guidance_under_a_rule() -> None:
    pipe = KANDINSKY.build()
    own = of_the_pipeline(pipe)
    rule = make_rule(request("cfg"), pipe)
    assert isinstance(rule, ClassifierFreeGuidance)
    assert rule.guidance_scale == own + 1
    native = KANDINSKY.run_native(pipe, own)
    with guide(pipe, rule) as guided:
        torch.testing.assert_close(KANDINSKY.run(guided), native, rtol=0, atol=1e-4)


def test_a_scale_at_which_the_pipeline_has_no_guidance_is_not_taken_for_none() -> None:
    pipe = KANDINSKY.build()
    assert call_arguments(pipe, None, request("native", 1.0))["guidance_scale"] == 0
    with pytest.raises(UserError, match="no guidance of its own at a scale of 2: use a rule, or a scale above 2"):
        call_arguments(pipe, None, request("native", 2.0))


@pytest.mark.parametrize("scale", [4.0, 6.5])
def test_one_scale_means_the_same_with_and_without_a_rule(scale: float) -> None:
    pipe = KANDINSKY.build()
    arguments = call_arguments(pipe, None, request("native", scale))
    native: Tensor = KANDINSKY.run_native(pipe, arguments["guidance_scale"])
    rule = make_rule(request("cfg", scale), pipe)
    with guide(pipe, rule) as guided:
        torch.testing.assert_close(KANDINSKY.run(guided), native, rtol=0, atol=1e-4)
