"""Transformers that draw images by flow matching, with both predictions in one call."""

from typing import Any

import tiny_parts as parts
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    BriaPipeline,
    BriaTransformer2DModel,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    PRXPipeline,
    PRXTransformer2DModel,
    ZImageImg2ImgPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tiny_family import Family
from tiny_inputs import SMALL, TRANSFORMER, UNBINNED, image, masked_texts, plus_one, states, texts
from tiny_made import FLOW, textless


def auraflow() -> AuraFlowPipeline:
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    for parameter in transformer.parameters():
        parameter.data.mul_(2)  # as it comes, its text hardly matters
    return textless(AuraFlowPipeline, transformer, FLOW(shift=1.7))


def z_image(cls: type = ZImagePipeline) -> Any:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=1,
        n_kv_heads=1,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[64, 32, 32],
    )
    return textless(cls, transformer, FLOW(shift=3.0))


def listed(prompts: int, images: int) -> dict[str, Any]:
    return {
        "prompt": None,
        "prompt_embeds": list(states(prompts * images, 4, 16)),
        "negative_prompt_embeds": list(states(prompts * images, 3, 16, 1)),
    }


def hidream() -> HiDreamImagePipeline:
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[16, 16],
        text_emb_dim=32,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(8, 4, 4),
        max_resolution=(32, 32),
        llama_layers=[0, 1],
        force_inference_output=True,
    )
    names = [f"{name}{k}" for name in ("text_encoder", "tokenizer") for k in ("", "_2", "_3", "_4")]
    pipe = HiDreamImagePipeline(
        vae=parts.kl_vae(), transformer=transformer, scheduler=FLOW(shift=3.0), **dict.fromkeys(names)
    )
    pipe.default_sample_size = 8
    return pipe


def four_texts(prompts: int, images: int) -> dict[str, Any]:
    def side(prefix: str, seed: int) -> dict[str, Any]:
        return {
            f"{prefix}prompt_embeds_t5": states(prompts, 4, 16, seed),
            f"{prefix}prompt_embeds_llama3": states(2 * prompts, 4, 16, seed + 2).view(2, prompts, 4, 16),
            f"{prefix}pooled_prompt_embeds": states(prompts, 1, 32, seed + 4)[:, 0],
        }

    return {"prompt": None} | side("", 0) | side("negative_", 1)


def lumina() -> LuminaPipeline:
    transformer = LuminaNextDiT2DModel(
        sample_size=4,
        hidden_size=16,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=16,
        learn_sigma=True,
    )
    return textless(LuminaPipeline, transformer, FLOW())


def bria() -> BriaPipeline:
    transformer = BriaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=[4, 4, 8],
    )
    return textless(BriaPipeline, transformer, FLOW())


def ernie() -> Any:
    from diffusers import ErnieImagePipeline, ErnieImageTransformer2DModel  # newer than the oldest diffusers

    transformer = ErnieImageTransformer2DModel(
        hidden_size=16,
        num_attention_heads=1,
        num_layers=1,
        ffn_hidden_size=16,
        in_channels=16,
        out_channels=16,
        text_in_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    return textless(ErnieImagePipeline, transformer, FLOW())


def prx() -> PRXPipeline:
    transformer = PRXTransformer2DModel(
        in_channels=4, context_in_dim=16, hidden_size=16, num_heads=2, depth=1, axes_dim=[4, 4]
    )
    return textless(PRXPipeline, transformer, FLOW())


def loose(prompts: int, images: int) -> dict[str, Any]:
    """Text states of different lengths, in lists."""
    return {
        "prompt": None,
        "prompt_embeds": list(states(prompts, 4, 16)),
        "negative_prompt_embeds": list(states(prompts, 3, 16, 1)),
    }


FAMILIES = (
    Family("auraflow", auraflow, "flow", masked_texts, SMALL, **TRANSFORMER),
    Family("z-image", z_image, "flow", listed, {"height": 32, "width": 32}, native=plus_one, off=0.0, **TRANSFORMER),
    Family(
        "z-image-img2img",
        lambda: z_image(ZImageImg2ImgPipeline),
        "flow",
        lambda p, i: listed(p, i) | {"image": image(32)},
        {"height": 32, "width": 32, "strength": 0.75},
        native=plus_one,
        off=0.0,
        **TRANSFORMER,
    ),
    Family("hidream", hidream, "flow", four_texts, SMALL, **TRANSFORMER),
    Family("lumina", lumina, "flow", masked_texts, SMALL, images="", **TRANSFORMER),
    Family("bria", bria, "flow", texts, SMALL, images="", **TRANSFORMER),
    Family("ernie-image", ernie, "flow", loose, {"height": 32, "width": 32}, **TRANSFORMER),
    Family("prx", prx, "flow", masked_texts, SMALL | UNBINNED, images="", batch=(1, 1), **TRANSFORMER),
)
