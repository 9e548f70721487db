import json

import pytest
import torch
from cases import SHAPES, predictions, step

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance, Guidance, NormMatching, Trace

RULES = [ClassifierFreeGuidance(6.0), AdaptiveProjectedGuidance(6.0), NormMatching(ClassifierFreeGuidance(6.0))]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
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
    class Halfway(Guidance):
        def combine(self, vectors, step):
            return vectors.uncond + (1 + self.guidance_scale) / 2 * vectors.difference

    cond, uncond, latents = predictions((2, 4, 8, 8))
    guided, _ = Halfway(7.0).guide(cond, uncond, latents, step())
    assert torch.allclose(guided, uncond + 4 * (cond - uncond), atol=1e-5)


def test_a_rule_without_a_formula_says_so():
    with pytest.raises(TypeError, match=r"Guidance must override combine\(\) or guide\(\)"):
        Guidance(2.0).guide(*predictions((1, 2)), step())
