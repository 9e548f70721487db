"""No rule waits for the device: where nothing can be read back, each still runs."""

import pytest
from cases import predictions, step
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from diffguide.guidance import (
    AdaptiveGuidance,
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    NormMatching,
    RatioAwareAdaptiveGuidance,
)

RULES = [
    ClassifierFreeGuidance(7.5),
    ClassifierFreeGuidance(7.5, guidance_rescale=0.7),
    AdaptiveProjectedGuidance(7.5),
    RatioAwareAdaptiveGuidance(7.5),
    AdaptiveGuidance(7.5),
    NormMatching(AdaptiveProjectedGuidance(7.5)),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_reads_nothing_back(rule):
    state = {}
    with FakeTensorMode():
        for index in range(3):
            guided, _ = rule.guide(*predictions((2, 4, 8, 8)), step("v_prediction", index, state))
        assert guided.shape == (2, 4, 8, 8)


def test_what_is_read_would_be_noticed():
    rule, here = AdaptiveGuidance(7.5, threshold=-1), step()
    with FakeTensorMode():
        rule.guide(*predictions((2, 4)), here)
        with pytest.raises(DataDependentOutputException):
            rule.needs_uncond(here)
