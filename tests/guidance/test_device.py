"""No rule waits for the device: where nothing can be read back each still runs, and it compiles as one graph."""

import pytest
import torch
from cases import RULES, predictions, step
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from diffguide.guidance import AdaptiveGuidance, ClassifierFreeGuidance, Scheduled


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("kind", ["v_prediction", "flow"])
def test_reads_nothing_back(rule, kind):
    state = {}
    with FakeTensorMode():
        for index in range(3):
            guided, measured = rule.guide(*predictions((2, 4, 8, 8)), step(kind, index, state))
            assert set(measured.numbers()) == {"cc", "cd", "dd", "gd", "update"}
        assert guided.shape == (2, 4, 8, 8)


def test_what_is_read_would_be_noticed():
    rule, here = AdaptiveGuidance(7.5, threshold=-1), step()
    with FakeTensorMode():
        rule.guide(*predictions((2, 4)), here)
        with pytest.raises(DataDependentOutputException):
            rule.needs_uncond(here)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_compiles_as_one_graph(rule):
    """Two steps in one function, so that what is remembered is compiled too."""

    def two_steps(cond, uncond, latents):
        state = {}
        first, _ = rule.guide(cond, uncond, latents, step("v_prediction", 1, state))
        second, measured = rule.guide(uncond, cond, latents, step("v_prediction", 2, state))
        return first, second, measured.numbers()["update"]

    torch._dynamo.reset()
    tensors = predictions((2, 4, 8, 8))
    compiled = torch.compile(two_steps, fullgraph=True, backend="eager")(*tensors)
    for ours, expected in zip(compiled, two_steps(*tensors), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_schedule_compiles_too():
    rule = Scheduled(ClassifierFreeGuidance(5.0), [1.0, 2.0, 3.0, 4.0])
    torch._dynamo.reset()
    compiled = torch.compile(lambda *tensors: rule.guide(*tensors, step(index=2))[0], fullgraph=True, backend="eager")
    tensors = predictions((1, 4, 8, 8))
    assert torch.allclose(compiled(*tensors), rule.guide(*tensors, step(index=2))[0], atol=1e-6)
