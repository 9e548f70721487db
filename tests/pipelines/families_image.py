"""Transformers that draw images with both predictions in one call."""

from typing import Any

import tiny_parts as parts
import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    BriaPipeline,
    BriaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PRXPipeline,
    PRXTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImageImg2ImgPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from families_unet import NO_PROMPT, SMALL, plus_one, states, texts
from tiny import Family, ddim
from tiny_variants import awake, image

TRANSFORMER = {"denoisers": ("transformer",)}
FLOW = FlowMatchEulerDiscreteScheduler


def masked_texts(prompts: int, images: int, length: int = 4, width: int = 16) -> dict[str, Any]:
    """Text states in place of prompts, with their masks; the last token of the negative one is padding."""
    mask = torch.ones(prompts, length)
    other = mask.clone()
    other[:, -1] = 0
    both = {"prompt_attention_mask": mask, "negative_prompt_attention_mask": other}
    return texts(prompts, images, length, width) | both


def textless(cls: type, transformer: Any, scheduler: Any, vae: Any = None, **more: Any) -> Any:
    """A pipeline that gets its text states from the caller."""
    nothing = {"tokenizer": None, "text_encoder": None}
    return cls(**nothing, vae=vae or parts.kl_vae(), transformer=awake(transformer), scheduler=scheduler, **more)


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


def sana() -> SanaPipeline:
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.5,
    )
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    )
    return textless(SanaPipeline, transformer, scheduler, vae)


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


UNBINNED = {"use_resolution_binning": False}

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
    Family(
        "sana",
        sana,
        "flow",
        masked_texts,
        {"height": 32, "width": 32} | UNBINNED | {"negative_prompt": None},
        **TRANSFORMER,
    ),
    Family("hunyuan-dit", hunyuan_dit, "v_prediction", two_texts, SMALL | UNBINNED, images="", **TRANSFORMER),
    Family("hidream", hidream, "flow", four_texts, SMALL, **TRANSFORMER),
    Family("lumina", lumina, "flow", masked_texts, SMALL, images="", **TRANSFORMER),
    Family("bria", bria, "flow", texts, SMALL, images="", **TRANSFORMER),
    Family("cogview3-plus", cogview3, "v_prediction", texts, SMALL, images="", **TRANSFORMER),
    Family("ernie-image", ernie, "flow", loose, {"height": 32, "width": 32}, **TRANSFORMER),
    Family("prx", prx, "flow", masked_texts, SMALL | UNBINNED, images="", batch=(1, 1), **TRANSFORMER),
)
