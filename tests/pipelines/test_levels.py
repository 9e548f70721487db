"""What the engine does of its own at each step: it reads a scheduler's tables once, and calls torch a few times."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny import FAMILIES
from tiny_schedulers import DIFFUSION
from torch.utils._python_dispatch import TorchDispatchMode

from diffguide.guidance import ClassifierFreeGuidance
from diffguide.pipelines import guide
from diffguide.pipelines.levels import Levels, number, over
from diffguide.pipelines.parametrization import describe_step


def test_a_table_is_read_once_and_another_anew():
    levels, table = Levels(), torch.tensor([3.0, 2.0, 1.0])
    assert [levels.at(table, 0), levels.at(table, -1)] == [3.0, 1.0]
    table[0] = 5.0
    assert levels.at(table, 0) == 3.0
    assert levels.at(table.clone(), 0) == 5.0


def test_a_place_that_a_device_knows_stays_there():
    place = torch.tensor(1, device="meta")  # whose value cannot be read
    with Counted() as counted:
        found = Levels().at(torch.tensor([3.0, 2.0]), place)
    assert torch.ops.aten.take.default not in counted.calls  # Apple's GPUs do not have it
    assert (found.device.type, found.shape) == ("meta", ())
    assert number(found) is found


def test_quotients_are_those_of_tensors():
    for pair in ((1.0, 2.0), (1.0, 0.0), (-1.0, 0.0)):
        first, second = (torch.tensor(each, dtype=torch.float64) for each in pair)
        assert over(*pair) == float(over(first, second))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["ddim", "pndm", "ddpm"])
def test_a_timestep_on_a_device_is_never_read(name, prediction):
    scheduler = DIFFUSION[name](prediction)
    scheduler.set_timesteps(5)
    scheduler.timesteps = scheduler.timesteps.to("meta")
    step = describe_step(scheduler, scheduler.timesteps[0], 0, 5, {})
    assert step.sigma.device.type == step.timestep.device.type == "meta"


def test_sigmas_are_numbers_wherever_they_are():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    levels = Levels()
    sigmas = [describe_step(scheduler, t, k, 4, {}, levels).sigma for k, t in enumerate(scheduler.timesteps[:1])]
    assert sigmas == [1.0]
    assert all(isinstance(each, float) for each in sigmas)
    assert math.isfinite(levels.at(scheduler.sigmas, 1))


class Counted(TorchDispatchMode):
    """What torch was called for."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls.append(function)
        return function(*args, **(kwargs or {}))


def calls_a_step(family, pipe):
    found = []
    for steps in (2, 6):
        with Counted() as counted:
            family.run(pipe, prompts=2, steps=steps)
        found.append(len(counted.calls))
    return (found[1] - found[0]) / 4


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_a_step_of_the_engine_calls_torch_a_few_times(name):
    """Beside those of the pipeline: the parts of the batch, the rule, the trace, the answer. It was 60."""
    (family,) = (family for family in FAMILIES if family.name == name)
    pipe = family.build()
    scale = {family.scale: 5.0}
    bare = calls_a_step(family, lambda *args, **kwargs: pipe(*args, **kwargs | scale))
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        assert 4 <= calls_a_step(family, guided) - bare <= 28
