"""No rule writes into what it is given, though some write into tensors of their own."""

import pytest
import torch
from cases import predictions, step

from diffguide.guidance import (
    AdaptiveGuidance,
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    RatioAwareAdaptiveGuidance,
    Rescale,
)
from diffguide.guidance.corrections import EnergyPreserving, Renorm

RULES = [
    *(
        AdaptiveProjectedGuidance(6.0, eta=eta, norm_threshold=cap, momentum=momentum)
        for eta in (0.0, 1.0)
        for cap in (0.0, 2.0)
        for momentum in (0.0, -0.5)
    ),
    AdaptiveGuidance(6.0, threshold=0.93, space="denoised"),
    ClassifierFreeGuidance(6.0, guidance_rescale=0.7),
    RatioAwareAdaptiveGuidance(6.0),
    Rescale(ClassifierFreeGuidance(6.0)),
    Renorm(ClassifierFreeGuidance(6.0)),
    EnergyPreserving(ClassifierFreeGuidance(6.0)),
]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_inputs_and_earlier_results_are_left_as_they_are(rule, prediction):
    state, kept = {}, []
    for index in range(3):
        tensors = predictions((2, 4, 8, 8), seed=index)
        guided, measured = rule.guide(*tensors, step(prediction, index, state))
        kept.append((*tensors, guided))
        if index == 0:
            first, numbers = [tensor.clone() for tensor in kept[0]], measured.numbers()
    assert all(torch.equal(before, now) for before, now in zip(first, kept[0]))
    assert all(torch.equal(before, now) for before, now in zip(predictions((2, 4, 8, 8)), kept[0]))
    assert numbers["update"].isfinite().all()
