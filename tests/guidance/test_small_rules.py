"""What every one of the small rules and corrections does alike: samples apart, half precision, nothing read back."""

import pytest
import torch
from cases import SHAPES, predictions, step
from torch._subclasses.fake_tensor import FakeTensorMode

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.guidance.beta_cfg import BetaClassifierFreeGuidance
from diffguide.guidance.cfg_zero import ClassifierFreeZeroStarGuidance
from diffguide.guidance.corrections import EnergyPreserving, NormMatching, Renorm
from diffguide.guidance.fdg import FrequencyDecoupledGuidance
from diffguide.guidance.tcfg import TangentialClassifierFreeGuidance
from diffguide.guidance.thresholding import DynamicThresholding, ReflectingWall

RULES = [
    ClassifierFreeZeroStarGuidance(7.5),
    TangentialClassifierFreeGuidance(7.5),
    BetaClassifierFreeGuidance(7.5),
    BetaClassifierFreeGuidance(7.5, gamma=0),
    FrequencyDecoupledGuidance(10.0),
    FrequencyDecoupledGuidance(10.0, parallel_weights=0.3),
]
CORRECTIONS = [
    kind(AdaptiveProjectedGuidance(7.5, momentum=0))
    for kind in (NormMatching, Renorm, EnergyPreserving, DynamicThresholding, ReflectingWall)
] + [EnergyPreserving(ClassifierFreeGuidance(7.5), (45, 55))]
KINDS = ["epsilon", "v_prediction", "flow"]


def takes(rule, shape):
    return len(shape) >= 4 or not isinstance(rule, FrequencyDecoupledGuidance)


ALL = [
    pytest.param(rule, shape, id=f"{rule!r}-{shape}")
    for rule in RULES + CORRECTIONS
    for shape in SHAPES
    if takes(rule, shape)
]


@pytest.mark.parametrize(("rule", "shape"), ALL)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_samples(rule, shape, kind):
    batch = predictions(shape)
    guided, _ = rule.guide(*batch, step(kind, index=1))
    for k in range(shape[0]):
        single, _ = rule.guide(*(x[k : k + 1] for x in batch), step(kind, index=1))
        assert torch.allclose(guided[k : k + 1], single, atol=1e-4)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_calculated_in_float32(rule, dtype):
    batch = predictions((2, 4, 8, 8), dtype=dtype)
    guided, _ = rule.guide(*batch, step("v_prediction", index=1))
    exact, _ = rule.guide(*(x.float() for x in batch), step("v_prediction", index=1))
    assert guided.dtype == dtype
    assert torch.equal(guided, exact.to(dtype))


@pytest.mark.parametrize("rule", [rule for rule in CORRECTIONS if not isinstance(rule, NormMatching)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_corrected_in_float32(rule, dtype):
    batch = predictions((2, 4, 8, 8), dtype=dtype)
    corrected = rule.correct(*batch, step("v_prediction"))
    assert corrected.dtype == dtype
    assert torch.equal(corrected, rule.correct(*(x.float() for x in batch), step("v_prediction")).to(dtype))


@pytest.mark.parametrize("rule", RULES + CORRECTIONS, ids=repr)
def test_identical_predictions_and_zeros_stay_finite(rule):
    cond, other, latents = predictions((2, 4, 8, 8))
    zero = torch.zeros_like(cond)
    for c, u in ((cond, cond), (zero, zero), (cond, zero), (zero, other)):
        for index in (0, 1):
            guided, _ = rule.guide(c, u, latents, step("flow", index))
            assert guided.isfinite().all()


@pytest.mark.parametrize(("rule", "shape"), ALL)
def test_reads_nothing_back(rule, shape):
    with FakeTensorMode():
        for kind in KINDS:
            guided, _ = rule.guide(*predictions(shape), step(kind, index=1))
            assert guided.shape == shape


@pytest.mark.parametrize("rule", RULES + CORRECTIONS, ids=repr)
def test_compiles_to_one_graph(rule):
    torch._dynamo.reset()
    batch, here = predictions((2, 4, 8, 8)), step("flow", index=1)
    compiled = torch.compile(lambda *batch: rule.guide(*batch, here)[0], fullgraph=True, backend="eager")
    assert torch.allclose(compiled(*batch), rule.guide(*batch, here)[0], atol=1e-5)
