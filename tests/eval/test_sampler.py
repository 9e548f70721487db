"""What is kept of each image of a batch: as if it had been made alone."""

import torch

from diffguide.eval.sampler import _traced
from diffguide.guidance import Measurement, Step, Trace
from diffguide.pipelines.sampling import Picture


def test_an_image_that_was_conditional_in_a_batch_costs_what_it_costs_alone():
    """Beside the evaluation that a reward's gradient takes, which each of them pays."""
    generator, trace = torch.Generator().manual_seed(0), Trace()
    for index, crossed in enumerate(([False, False], [True, False])):
        step = Step(index=index, total=2, decision=torch.tensor(crossed), extra_evaluations=1)
        cond, difference, guided = (torch.randn(2, 4, generator=generator) for _ in range(3))
        trace.append(step, 2, 2, Measurement.of_tensors(cond, difference, guided))
    found = _traced([Picture(None, None, 0.0, trace, place) for place in range(2)], float("nan"))
    assert found["trace_evaluations"].tolist() == [[3, 2], [3, 3]]
    assert found["evaluations"].tolist() == [5, 6]
    assert found["trace_effective_scale"][0, 1] == 1
