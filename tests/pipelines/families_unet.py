"""Pipelines on a UNet beyond those in `tiny` and `tiny_variants`: more inputs, more outputs, frames, three ways."""

from typing import Any

import tiny_encoders as encoders
import tiny_parts as parts
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    LDMTextToImagePipeline,
    StableDiffusionGLIGENPipeline,
    StableDiffusionImageVariationPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLInstructPix2PixPipeline,
)
from tiny import ddim, sd, sdxl
from tiny_encoders import vision
from tiny_family import Family
from tiny_inputs import SMALL, gradient, picture, pictures, states, texts
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
)


def variation() -> StableDiffusionImageVariationPipeline:
    processor = CLIPImageProcessor()
    modules = {"vae": parts.tiny_vae(), "image_encoder": vision(), "unet": parts.unet(), "scheduler": ddim()}
    return StableDiffusionImageVariationPipeline(
        **modules, safety_checker=None, feature_extractor=processor, requires_safety_checker=False
    )


def upscale() -> StableDiffusionUpscalePipeline:
    modules = {
        "vae": parts.kl_vae(),
        "text_encoder": encoders.clip_text(),
        "tokenizer": encoders.clip_tokenizer(),
        "unet": parts.unet(in_channels=7, num_class_embeds=1000),
        "low_res_scheduler": DDPMScheduler(),
        "scheduler": ddim("v_prediction"),
    }
    return StableDiffusionUpscalePipeline(**modules)


def latent_upscale() -> StableDiffusionLatentUpscalePipeline:
    unet = parts.unet(in_channels=8, out_channels=5, cross_attention_dim=16, time_cond_proj_dim=144)
    modules = {
        "vae": parts.tiny_vae(),
        "text_encoder": encoders.clip_text(),
        "tokenizer": encoders.clip_tokenizer(),
        "scheduler": EulerDiscreteScheduler(prediction_type="sample"),
    }
    pipe = StableDiffusionLatentUpscalePipeline(unet=unet, **modules)
    return pipe


def deepfloyd(cls: type = IFPipeline, in_channels: int = 3, **changes: Any) -> Any:
    unet = parts.unet(
        in_channels=in_channels,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        encoder_hid_dim=16,
        resnet_time_scale_shift="scale_shift",
        **({"class_embed_type": "timestep"} if changes else {}),
    )
    scheduler = DDPMScheduler(variance_type="learned_range", beta_schedule="squaredcos_cap_v2", clip_sample=False)
    nothing = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"))
    return cls(
        tokenizer=encoders.t5_tokenizer(),
        text_encoder=encoders.t5(),
        unet=unet,
        scheduler=scheduler,
        **nothing,
        requires_safety_checker=False,
        **changes,
    )


def ldm() -> LDMTextToImagePipeline:
    bert = CLIPTextModel(CLIPTextConfig(**encoders.clip_text().config.to_dict() | {"max_position_embeddings": 77}))
    modules = {"vqvae": parts.kl_vae(), "bert": bert, "tokenizer": encoders.clip_tokenizer()}
    return LDMTextToImagePipeline(**modules, unet=parts.unet(), scheduler=ddim())


def kolors() -> Any:
    from diffusers import KolorsPipeline  # its import warns

    unet = parts.unet(
        **(parts.SDXL | {"cross_attention_dim": 16, "encoder_hid_dim": 16}), encoder_hid_dim_type="text_proj"
    )
    return KolorsPipeline(vae=parts.tiny_vae(), text_encoder=None, tokenizer=None, unet=unet, scheduler=ddim())


def pooled(prompts: int, images: int) -> dict[str, Any]:
    both = {"pooled_prompt_embeds": states(prompts, 1, 16)[:, 0]}
    both["negative_pooled_prompt_embeds"] = states(prompts, 1, 16, 1)[:, 0]
    return texts(prompts, images) | both


PIXELS = {"output": "pt"}


FAMILIES = (
    Family("kolors", kolors, "epsilon", pooled, SMALL, images=""),
    Family("sd-upscale", upscale, "v_prediction", pictures),
    Family(
        "sd-latent-upscale",
        latent_upscale,
        "other",
        lambda prompts, images: {"image": states(prompts, 64, 4).view(prompts, 4, 8, 8)},
        images="",
    ),
    Family(
        "sd-gligen",
        lambda: sd(StableDiffusionGLIGENPipeline, unet=parts.unet(attention_type="gated")),
        "epsilon",
        fixed=SMALL | {"gligen_phrases": ["dog"], "gligen_boxes": [[0.1, 0.1, 0.6, 0.7]]},
    ),
    Family(
        "sd-pix2pix",
        lambda: sd(StableDiffusionInstructPix2PixPipeline, in_channels=8),
        "epsilon",
        pictures,
        {"image_guidance_scale": 1.0},
    ),
    Family(
        "sdxl-pix2pix",
        lambda: sdxl(
            StableDiffusionXLInstructPix2PixPipeline, unet=parts.unet(**parts.SDXL, in_channels=8), vae=parts.kl_vae()
        ),
        "epsilon",
        pictures,
        SMALL | {"image_guidance_scale": 1.0},
    ),
    Family(
        "sd-variation", variation, "epsilon", lambda p, i: {"image": [gradient(32)] * p}, SMALL, without=("prompt",)
    ),
    Family("deepfloyd-if", deepfloyd, "epsilon", fixed={"clean_caption": False}, **PIXELS),
    Family(
        "deepfloyd-if-superresolution",
        lambda: deepfloyd(IFSuperResolutionPipeline, 6, image_noising_scheduler=DDPMScheduler()),
        "epsilon",
        lambda prompts, images: {"image": picture(prompts)},
        {"clean_caption": False} | SMALL,
        **PIXELS,
    ),
    Family("ldm", ldm, "epsilon", fixed=SMALL, images="", output="np"),
)
