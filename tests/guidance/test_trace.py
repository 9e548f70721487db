import json

import pytest
import torch
from cases import SHAPES, predictions, step
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from diffguide.guidance import (
    AdaptiveGuidance,
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    Guidance,
    NormMatching,
    RatioAwareAdaptiveGuidance,
    Rescale,
    Trace,
)


class Halfway(Guidance):
    """A rule on coefficients."""

    def combine(self, vectors, step):
        return vectors.uncond + (1 + self.guidance_scale) / 2 * vectors.difference


RULES = [
    ClassifierFreeGuidance(6.0),
    ClassifierFreeGuidance(6.0, guidance_rescale=0.7),
    AdaptiveProjectedGuidance(6.0),
    RatioAwareAdaptiveGuidance(6.0),
    AdaptiveGuidance(6.0),
    NormMatching(ClassifierFreeGuidance(6.0)),
    Halfway(6.0),
    Rescale(Halfway(6.0)),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_records_are_what_the_tensors_say(rule, shape):
    cond, uncond, latents = predictions(shape)
    here, trace = step("v_prediction"), Trace()
    guided, measured = rule.guide(cond, uncond, latents, here)
    trace.append(here, 2, len(cond), measured)

    c, u, g = (x.double().flatten(1) for x in (cond, uncond, guided))
    d = c - u
    record = trace[0]
    assert torch.allclose(record.cosine.double(), torch.cosine_similarity(c, u), atol=1e-5)
    assert torch.allclose(record.ratio.double(), d.norm(dim=1) / u.norm(dim=1), rtol=1e-5)
    assert torch.allclose(record.difference_norm.double(), d.norm(dim=1), rtol=1e-5)
    assert torch.allclose(record.update_norm.double(), (g - c).norm(dim=1), rtol=1e-3)
    assert torch.allclose(record.effective_scale.double(), ((g - u) * d).sum(1) / d.square().sum(1), rtol=1e-3)
    assert (record.index, record.timestep, record.evaluations) == (0, 500.0, 2)


def test_a_step_without_the_unconditional_pass():
    trace = Trace()
    trace.append(step(), 1, 3, None)
    assert trace[0].cosine.isnan().all()
    assert trace[0].effective_scale.tolist() == [1, 1, 1]
    assert trace.evaluations == 1
    json.dumps(trace[0].to_dict())


def test_a_rule_of_ones_own_is_a_few_lines():
    cond, uncond, latents = predictions((2, 4, 8, 8))
    guided, _ = Halfway(7.0).guide(cond, uncond, latents, step())
    assert torch.allclose(guided, uncond + 4 * (cond - uncond), atol=1e-5)


def test_a_rule_without_a_formula_says_so():
    with pytest.raises(TypeError, match=r"Guidance must override combine\(\) or guide\(\)"):
        Guidance(2.0).guide(*predictions((1, 2)), step())


def traced(steps=4, shape=(3, 4, 8, 8), dtype=torch.float32):
    """Adaptive guidance whose images cross one after another, with a second-order solver: two evaluations a step."""
    trace, state = Trace("AdaptiveGuidance(...)"), {}
    for index in range(steps):
        cond, uncond, latents = predictions(shape, seed=index, dtype=dtype)
        rule, here = AdaptiveGuidance(4.0, threshold=0.938, space="prediction"), step(index=index, state=state)
        here.timestep = torch.tensor(900 - 100 * (index // 2))
        if rule.needs_uncond(here):
            guided, measured = rule.guide(cond, uncond, latents, here)
            trace.append(here, 2, len(guided), measured)
        else:
            trace.append(here, 1, len(cond), None)
    return trace


class Reads(TorchFunctionMode):
    """Counts what would wait for a device."""

    WAITS = (torch.Tensor.cpu, torch.Tensor.item, torch.Tensor.__float__, torch.Tensor.__bool__, torch.Tensor.to)

    def __init__(self):
        self.calls = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.WAITS:
            self.calls.append(function.__name__)
        return function(*args, **(kwargs or {}))


def test_all_numbers_are_read_at_once_and_once():
    trace = Trace()
    for index in range(5):
        rule, here = ClassifierFreeGuidance(4.0), step(index=index)
        trace.append(here, 2, 2, rule.guide(*predictions((2, 4, 8, 8), seed=index), here)[1])
    held = sum(len(values) for values in trace._readings._waiting)
    assert held == 5 * 8  # timestep, sigma, decision and five inner products each, and no tensor beside them
    assert all(v.numel() <= 2 for values in trace._readings._waiting for v in values.values() if torch.is_tensor(v))
    with Reads() as reads:
        assert trace[3].cosine.shape == (2,)
    assert reads.calls == ["cpu"]
    with Reads() as again:
        trace[0].ratio, trace[4].update_norm, trace[1].decision, trace[2].effective_scale
    assert again.calls == []


def test_collecting_waits_for_no_device():
    with FakeTensorMode():
        cond, uncond, latents = (torch.empty(2, 4, 8, 8) for _ in range(3))
        trace, here = Trace(), step()
        guided, measured = AdaptiveProjectedGuidance(4.0).guide(cond, uncond, latents, here)
        trace.append(here, 2, len(guided), measured)
    assert len(trace) == 1


def test_a_trace_that_grows_after_it_was_read():
    trace, other = Trace(), predictions((2, 4, 8, 8), seed=1)
    for index, tensors in enumerate([predictions((2, 4, 8, 8)), other]):
        here = step(index=index)
        trace.append(here, 2, 2, ClassifierFreeGuidance(4.0).guide(*tensors, here)[1])
        first = trace[0].cosine
    assert torch.equal(trace[0].cosine, first)
    assert torch.allclose(trace[1].cosine, torch.cosine_similarity(*(x.flatten(1) for x in other[:2])), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_json_says_what_the_records_say(dtype):
    trace = traced(dtype=dtype)
    content = json.loads(trace.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content == trace.to_dict()
    assert (content["version"], content["rule"]) == (1, "AdaptiveGuidance(...)")
    assert content["evaluations"] == trace.evaluations < 8
    assert [one["timestep"] for one in content["steps"]] == [900, 900, 800, 800]
    assert {"guided", "conditional"} == {word for one in content["steps"] for word in one["decision"]}
    for record, one in zip(trace, content["steps"]):
        assert one["evaluations"] == record.evaluations
        assert one["sigma"] == pytest.approx(1.7)
        for name in ("cosine", "ratio", "difference_norm", "update_norm"):
            assert one[name] == (getattr(record, name).tolist() if record.evaluations == 2 else [None] * 3)
    assert content["steps"][-1]["effective_scale"] == [1, 1, 1]


def test_numbers_that_are_not_finite_are_null():
    trace, here = Trace(), step()
    zeros = torch.zeros(1, 4, 8, 8)
    trace.append(here, 2, 1, ClassifierFreeGuidance(4.0).guide(zeros, zeros, zeros, here)[1])
    assert json.loads(trace.to_json())["steps"][0]["cosine"] == [None]


def test_one_sample_of_a_batch_is_what_it_is_alone():
    whole = traced().to_dict()
    for k in range(3):
        alone = traced().of_sample(k)
        assert [record.samples for record in alone] == [1] * 4
        for one, every in zip(alone.to_dict()["steps"], whole["steps"]):
            for name, value in one.items():
                assert value == ([every[name][k]] if isinstance(value, list) else every[name]), name
    with pytest.raises(IndexError, match="no sample 3 among 3"):
        traced().of_sample(3)
