"""Transformers that draw images with both predictions in one call."""

from typing import Any

import tiny_parts as parts
from diffusers import (
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    DiTPipeline,
    DiTTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)
from tiny import ddim
from tiny_family import Family
from tiny_inputs import NO_PROMPT, SMALL, TRANSFORMER, UNBINNED, masked_texts, texts
from tiny_made import textless


def pixart(cls: type = PixArtSigmaPipeline) -> Any:
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
        use_additional_conditions=False,
    )
    return textless(cls, transformer, ddim())


def dit() -> DiTPipeline:
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=4, out_channels=8
    )
    return DiTPipeline(transformer, parts.kl_vae(), ddim())


def hunyuan_dit() -> HunyuanDiTPipeline:
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=2,
        cross_attention_dim=16,
        cross_attention_dim_t5=16,
        pooled_projection_dim=16,
        text_len=4,
        text_len_t5=4,
    )
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return textless(HunyuanDiTPipeline, transformer, ddim("v_prediction"), **nothing)


def two_texts(prompts: int, images: int) -> dict[str, Any]:
    both = masked_texts(prompts, images)
    return both | {f"{name}_2": value for name, value in both.items() if name != "prompt"}


def cogview3() -> CogView3PlusPipeline:
    transformer = CogView3PlusTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=16,
        condition_dim=8,
        pos_embed_max_size=8,
        sample_size=8,
    )
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    return textless(CogView3PlusPipeline, transformer, scheduler)


FAMILIES = (
    Family(
        "pixart-sigma", pixart, "epsilon", masked_texts, SMALL | UNBINNED | {"negative_prompt": None}, **TRANSFORMER
    ),
    Family(
        "pixart-alpha",
        lambda: pixart(PixArtAlphaPipeline),
        "epsilon",
        masked_texts,
        SMALL | UNBINNED | {"negative_prompt": None},
        **TRANSFORMER,
    ),
    Family(
        "dit",
        dit,
        "epsilon",
        lambda p, i: {"class_labels": [3, 5][:p]},
        images="",
        output="np",
        **TRANSFORMER,
        **NO_PROMPT,
    ),
    Family("hunyuan-dit", hunyuan_dit, "v_prediction", two_texts, SMALL | UNBINNED, images="", **TRANSFORMER),
    Family("cogview3-plus", cogview3, "v_prediction", texts, SMALL, images="", **TRANSFORMER),
)
