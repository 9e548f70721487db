"""Normalized attention guidance as a function of two attentions; `test_attending` has it inside of models."""

import pytest
import torch
from cases import step

from diffguide.guidance import (
    Guidance,
    Interval,
    NormalizedAttentionGuidance,
    Rescale,
    RewardGuidance,
    Scheduled,
)


def attentions(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    positive, noise = (torch.randn(3, 16, 24, generator=generator, dtype=torch.float64) for _ in range(2))
    spread = torch.linspace(0.1, 3, 16, dtype=torch.float64)[:, None]  # tokens whose norm grows little, and much
    return positive.to(dtype), (positive + spread * noise).to(dtype)


def published(positive: torch.Tensor, negative: torch.Tensor, scale: float, tau: float, alpha: float) -> torch.Tensor:
    """Extrapolation, L1 normalisation, refinement: one token after the other, as the paper has them."""
    result = torch.empty_like(positive)
    for place in torch.cartesian_prod(*map(torch.arange, positive.shape[:2])).tolist():
        kept, other = positive[tuple(place)], negative[tuple(place)]
        guided = scale * kept - (scale - 1) * other
        growth = guided.abs().sum() / kept.abs().sum()
        result[tuple(place)] = alpha * guided * min(growth, tau) / growth + (1 - alpha) * kept
    return result


@pytest.mark.parametrize(
    ("scale", "tau", "alpha"), [(3.0, 2.5, 0.5), (5.0, 2.5, 0.25), (9.0, 1.5, 1.0), (0.0, 2.5, 0.5)]
)
def test_the_papers_lines(scale: float, tau: float, alpha: float) -> None:
    positive, negative = attentions(torch.float64)
    ours = NormalizedAttentionGuidance(scale, tau, alpha).attend(positive, negative, step())
    torch.testing.assert_close(ours, published(positive, negative, scale, tau, alpha), rtol=1e-12, atol=1e-12)


def test_settings_that_leave_attention_as_it_is() -> None:
    positive, negative = attentions()
    for rule in (NormalizedAttentionGuidance(1.0), NormalizedAttentionGuidance(7.0, alpha=0)):
        assert torch.equal(rule.attend(positive, negative, step()), positive)
    assert not NormalizedAttentionGuidance(1.0).needs_uncond(step())
    assert NormalizedAttentionGuidance(3.0).needs_uncond(step())
    same = NormalizedAttentionGuidance(7.0).attend(positive, positive, step())  # a negative prompt that is the prompt
    torch.testing.assert_close(same, positive)


def test_the_norm_of_a_token_is_capped() -> None:
    positive, negative = attentions()
    own = positive.abs().sum(-1)
    whole = NormalizedAttentionGuidance(50.0, tau=1.5, alpha=1.0).attend(positive, negative, step()).abs().sum(-1)
    torch.testing.assert_close(whole, 1.5 * own)
    assert (NormalizedAttentionGuidance(50.0).attend(positive, negative, step()).abs().sum(-1) <= 1.75 * own).all()


def test_half_precision_is_calculated_in_float32_and_nothing_is_nothing() -> None:
    rule = NormalizedAttentionGuidance(9.0)
    positive, negative = attentions(torch.bfloat16)
    ours = rule.attend(positive, negative, step())
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, rule.attend(positive.float(), negative.float(), step()).bfloat16())
    nothing = torch.zeros(2, 3, 4)
    assert rule.attend(nothing, nothing, step()).eq(0).all()
    assert rule.attend(nothing, nothing + 1, step()).eq(0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, "tau must be above 0, not 0.0"),
        ({"alpha": 1.5}, "alpha must be between 0 and 1, not 1.5"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NormalizedAttentionGuidance(**options)


def test_what_goes_around_it(tmp_path) -> None:
    rule = NormalizedAttentionGuidance(4.0, tau=2.0)
    around = Interval(Scheduled(rule, "linear"), stop=0.5)
    assert around.acts_inside
    positive, negative = attentions()
    here = step(index=1)  # of 4: a third of the way from 4 to 1
    expected = NormalizedAttentionGuidance(3.0, tau=2.0).attend(positive, negative, here)
    assert torch.equal(around.attend(positive, negative, here), expected)
    state: dict = {}
    assert [around.needs_uncond(step(index=k, state=state)) for k in range(4)] == [True, True, False, False]
    around.save_pretrained(tmp_path)
    assert repr(Guidance.from_pretrained(tmp_path)) == repr(around)
    with pytest.raises(ValueError, match="makes nothing of two predictions, which Rescale goes by"):
        Rescale(rule)
    with pytest.raises(ValueError, match="which RewardGuidance goes by"):
        RewardGuidance(lambda images: images.mean((1, 2, 3)), rule=rule)
    with pytest.raises(TypeError, match=r"acts inside the denoiser: diffguide\.pipelines\.guide\(\) attaches it there"):
        rule.guide(positive, negative, positive, step())
