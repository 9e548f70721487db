"""Rules inside of attentions in which text and latents attend to one another, against transformers written by hand."""

from typing import Any

import joint_by_hand
import pytest
import torch
from attending import ALL_NEGATIVE, ALL_POSITIVE, FAMILIES, NEGATIVE, RULE, close, quiet  # noqa: F401
from diffusers import SD3Transformer2DModel
from test_parity import assert_clean
from torch import Tensor

from diffguide.guidance import ClassifierFreeGuidance, NormalizedAttentionGuidance
from diffguide.pipelines import guide
from diffguide.pipelines.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # of deprecated pipelines, as in test_families


def by_rule(positive: Tensor, negative: Tensor) -> Tensor:
    """The paper's lines, with the options of RULE."""
    guided = 5.0 * positive - 4.0 * negative
    growth = guided.norm(1, -1, keepdim=True) / positive.norm(1, -1, keepdim=True)
    return 0.8 * guided * growth.clamp(max=1.2) / growth + 0.2 * positive


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_both_texts_have_a_stream_and_share_the_latents(name: str) -> None:
    family, pipe = FAMILIES[name], FAMILIES[name].build()
    calls: list[dict[str, Any]] = []
    hook = pipe.transformer.register_forward_pre_hook(lambda *given: calls.append(given[2]), with_kwargs=True)
    family.run(pipe, negative_prompt=[NEGATIVE], **{family.scale: 5.0})
    hook.remove()
    seen = {key: calls[1][key] for key in ("encoder_hidden_states", "pooled_projections")}
    if name == "sd3":
        seen = {key: both.chunk(2)[0] for key, both in seen.items()}
    native, off = pipe.transformer.forward, family.run_native(pipe, family.off)
    pipe.transformer.forward = torch.no_grad()(getattr(joint_by_hand, name)(pipe.transformer, seen, by_rule))
    expected = family.run_native(pipe, family.off)
    pipe.transformer.forward = native
    with guide(pipe, RULE) as guided:
        ours = family.run(guided, negative_prompt=[NEGATIVE])
        assert [record.evaluations for record in guided.trace] == [4, 2, 2, 2]
        assert guided.trace[1].decision == ["attention"]
    close(ours, expected)
    assert (ours - off).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_one_negative_prompt_is_that_of_all_prompts(name: str) -> None:
    family, pipe = FAMILIES[name], FAMILIES[name].build()
    with guide(pipe, RULE) as guided:
        expected = family.run(guided, prompts=2, negative_prompt=[NEGATIVE] * 2)
        close(family.run(guided, prompts=2, negative_prompt=NEGATIVE), expected)


BY_ATTENTION_ALONE = [
    "qwen",  # prompts of different lengths, one of which is filled up and masked
    "qwen-edit",
    "flux2-klein",
    "auraflow",
    "bria",
    "longcat",
    "joyimage-edit",
    "chroma",
    "cogview4",
    "cogvideox",
    "easyanimate",
    "z-image",
]
"""Families that know of a text by attention alone."""

POOLED = ["flux-kontext", "sd3-inpaint-33", "hunyuan-video"]
"""Families that also know of it by a pooled embedding, which modulates all tokens, and is left out here."""


@pytest.mark.parametrize("name", [*BY_ATTENTION_ALONE, *POOLED, "flux-controlnet", "mochi"])
def test_with_all_of_one_text_it_is_the_prediction_for_that(name: str) -> None:
    family, pipe = FAMILIES[name], FAMILIES[name].build()
    for parameter in pipe.transformer.time_text_embed.text_embedder.parameters() if name in POOLED else ():
        torch.nn.init.zeros_(parameter)
    native = family.run_native(pipe, 3.0)
    with guide(pipe, ALL_POSITIVE) as guided:
        positive = family.run(guided)
        guided.guidance = ClassifierFreeGuidance(1.0)
        conditional = family.run(guided)
        close(positive, conditional)
        if name in BY_ATTENTION_ALONE + POOLED:
            guided.guidance = ALL_NEGATIVE
            negative = family.run(guided)
            guided.guidance = ClassifierFreeGuidance(0.0)
            close(negative, family.run(guided))
        guided.guidance = RULE
        acted = family.run(guided)
        first = 2 if name == "z-image" else 4  # where the table says so, nothing has to be seen first
        evaluations = [record.evaluations for record in guided.trace]
        assert evaluations == [first] + [2] * (len(guided.trace) - 1)
        assert acted.isfinite().all()
        assert (acted - conditional).abs().max() > 1e-3
        assert torch.equal(family.run(guided), acted)
    assert torch.equal(family.run_native(pipe, 3.0), native)
    for module in family.modules(pipe):
        assert_clean(module)
        assert not any(part._forward_pre_hooks or part._forward_hooks for part in module.modules())


def test_prompts_of_different_lengths_need_a_mask() -> None:
    family, pipe = FAMILIES["cogview4"], FAMILIES["cogview4"].build()
    longer = torch.randn(1, 21, pipe.transformer.config.text_embed_dim)
    with pytest.raises(UserError, match="different lengths, and it takes no mask"), guide(pipe, RULE) as guided:
        family.run(guided, negative_prompt_embeds=longer)
    for module in family.modules(pipe):
        assert_clean(module)


@pytest.mark.parametrize("name", ["cosmos2-video", "cosmos2.5-predict"])
def test_where_frames_are_given_they_are_seen_as_they_are(name: str) -> None:
    family, pipe = FAMILIES[name], FAMILIES[name].build()
    with guide(pipe, ALL_POSITIVE) as guided:
        positive = family.run(guided)
        guided.guidance = ClassifierFreeGuidance(1.0)
        close(positive, family.run(guided))


@pytest.mark.parametrize("name", ["lcm", "flux-control", "flux-fill", "sana-sprint"])
def test_pipelines_that_take_no_negative_prompt_take_one(name: str) -> None:
    family, pipe = FAMILIES[name], FAMILIES[name].build()
    for part in pipe.transformer.time_text_embed.text_embedder.parameters() if name.startswith("flux") else ():
        torch.nn.init.zeros_(part)  # a pooled text modulates all tokens
    if name == "sana-sprint":  # which has no text encoder here
        texts = {key: family.inputs(1, 1)[key] for key in ("prompt_embeds", "prompt_attention_mask")}
        texts["prompt_embeds"] = -texts["prompt_embeds"]
        expected = family.run(pipe, **texts)
        given = {f"negative_{key}": value for key, value in texts.items()}
        with (
            pytest.raises(UserError, match="no text encoder: give negative_prompt_embeds"),
            guide(pipe, RULE) as guided,
        ):
            family.run(guided)
    else:
        expected, given = family.run(pipe, prompt=[NEGATIVE]), {"negative_prompt": NEGATIVE}
    native = family.run(pipe)
    with guide(pipe, ALL_NEGATIVE) as guided:
        close(family.run(guided, **given), expected)
        guided.guidance = RULE
        acted = family.run(guided, **given)
        first, later = {"lcm": (1, 1), "sana-sprint": (2, 1)}.get(name, (4, 2))
        assert [record.evaluations for record in guided.trace] == [first, *[later] * (len(guided.trace) - 1)]
    assert (native - expected).abs().max() > 1e-3
    assert (acted - native).abs().max() > 1e-3
    assert torch.equal(family.run(pipe), native)
    assert "encode_prompt" not in vars(pipe)


def test_an_attention_of_latents_alone_is_left_alone() -> None:
    """As the second one in blocks of SD3.5, which a tau below 1 would shrink."""
    family, pipe = FAMILIES["sd3"], FAMILIES["sd3"].build()
    config = {name: value for name, value in pipe.transformer.config.items() if not name.startswith("_")}
    pipe.transformer = SD3Transformer2DModel(**config | {"dual_attention_layers": (0,)}).eval()
    attentions = []

    class Counted(NormalizedAttentionGuidance):
        def attend(self, positive: Tensor, negative: Tensor, step: Any) -> Tensor:
            attentions.append(positive)
            return super().attend(positive, negative, step)

    with guide(pipe, Counted(5.0)) as guided:
        family.run(guided)
        assert len(attentions) == len(guided.trace) * len(pipe.transformer.transformer_blocks)
