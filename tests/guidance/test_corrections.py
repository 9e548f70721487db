import pytest
import torch
from cases import predictions, step

from diffguide.guidance import ClassifierFreeGuidance, NormMatching


def test_norm_matching_is_qwen_images():
    cond, uncond, latents = predictions((3, 16, 32))
    guided, _ = NormMatching(ClassifierFreeGuidance(4.0)).guide(cond, uncond, latents, step("flow"))
    combined = uncond + 4.0 * (cond - uncond)
    expected = combined * (torch.norm(cond, dim=-1, keepdim=True) / torch.norm(combined, dim=-1, keepdim=True))
    assert torch.equal(guided, expected)


def test_skips_what_the_rule_inside_skips():
    rule = NormMatching(ClassifierFreeGuidance(1.0))
    cond, _, latents = predictions((3, 16, 32))
    assert not rule.needs_uncond(step())
    assert torch.equal(rule.guide_cond(cond, latents, step()), cond)


def test_goes_around_a_rule():
    with pytest.raises(ValueError, match="goes around a rule"):
        NormMatching(4.0)
