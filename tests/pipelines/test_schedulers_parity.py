"""Plain guidance as a rule equals the native guidance under every scheduler, evaluation by evaluation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import FAMILIES
from tiny_family import Family
from tiny_schedulers import DIFFUSION, FLOW

from diffguide.guidance import ClassifierFreeGuidance
from diffguide.pipelines import guide

BY_NAME = {family.name: family for family in FAMILIES}


def check(family: Family, make_scheduler: Callable[[], Any]) -> None:
    """Native and guided final latents are equal, and every evaluation of the denoiser has its record."""
    pipe = family.build()
    pipe.scheduler = make_scheduler()
    calls: list[float] = []
    (module,) = family.modules(pipe)
    hook = module.register_forward_hook(lambda module, args, output: calls.append(1))
    native = family.run_native(pipe, 5.0, steps=5)
    evaluations = len(calls)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        ours = family.run(guided, steps=5)
    hook.remove()
    assert native.isfinite().all()
    torch.testing.assert_close(ours, native, rtol=0, atol=1e-6)
    assert len(calls) == 2 * evaluations
    assert [record.index for record in guided.trace] == list(range(evaluations))
    assert guided.trace.evaluations == 2 * evaluations
    assert [record.timestep for record in guided.trace] == [float(t) for t in pipe.scheduler.timesteps]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", DIFFUSION)
def test_diffusion(name: str, prediction: str) -> None:
    check(BY_NAME["sd"], lambda: DIFFUSION[name](prediction))


@pytest.mark.parametrize("name", FLOW)
def test_flow(name: str) -> None:
    check(BY_NAME["sd3"], FLOW[name])
