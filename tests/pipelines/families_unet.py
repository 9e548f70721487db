"""Pipelines on a UNet beyond those in `tiny` and `tiny_variants`: more inputs, more outputs, frames, three ways."""

from typing import Any

import tiny_parts as parts
import torch
from diffusers import (
    AnimateDiffPipeline,
    AnimateDiffVideoToVideoPipeline,
    DDPMScheduler,
    EulerDiscreteScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KandinskyV22ControlnetPipeline,
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
    LDMTextToImagePipeline,
    MotionAdapter,
    StableDiffusionGLIGENPipeline,
    StableDiffusionImageVariationPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
    UNetSpatioTemporalConditionModel,
    VQModel,
)
from PIL import Image
from tiny import Family, ddim, picture, sd, sdxl
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from diffguide.guidance import ClassifierFreeGuidance

SMALL = {"height": 16, "width": 16}
VIDEOS = {"images": "num_videos_per_prompt"}


def states(rows: int, length: int, width: int, seed: int = 0) -> torch.Tensor:
    """(rows, length, width): text states, another for each seed."""
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(seed))


def texts(prompts: int, images: int, length: int = 4, width: int = 16) -> dict[str, Any]:
    """Text states in place of prompts."""
    return {
        "prompt": None,
        "prompt_embeds": states(prompts, length, width),
        "negative_prompt_embeds": states(prompts, length, width, 1),
    }


def vision() -> CLIPVisionModelWithProjection:
    sizes = {"hidden_size": 16, "projection_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(**sizes, intermediate_size=16, image_size=224, patch_size=112)
    )


def gradient(size: int) -> Image.Image:
    return Image.linear_gradient("L").resize((size, size)).convert("RGB")


def variation() -> StableDiffusionImageVariationPipeline:
    processor = CLIPImageProcessor()
    modules = {"vae": parts.tiny_vae(), "image_encoder": vision(), "unet": parts.unet(), "scheduler": ddim()}
    return StableDiffusionImageVariationPipeline(
        **modules, safety_checker=None, feature_extractor=processor, requires_safety_checker=False
    )


def upscale() -> StableDiffusionUpscalePipeline:
    modules = {
        "vae": parts.kl_vae(),
        "text_encoder": parts.clip_text(),
        "tokenizer": parts.clip_tokenizer(),
        "unet": parts.unet(in_channels=7, num_class_embeds=1000),
        "low_res_scheduler": DDPMScheduler(),
        "scheduler": ddim("v_prediction"),
    }
    return StableDiffusionUpscalePipeline(**modules)


def latent_upscale() -> StableDiffusionLatentUpscalePipeline:
    unet = parts.unet(in_channels=8, out_channels=5, cross_attention_dim=16, time_cond_proj_dim=144)
    modules = {
        "vae": parts.tiny_vae(),
        "text_encoder": parts.clip_text(),
        "tokenizer": parts.clip_tokenizer(),
        "scheduler": EulerDiscreteScheduler(prediction_type="sample"),
    }
    pipe = StableDiffusionLatentUpscalePipeline(unet=unet, **modules)
    return pipe


def motion_adapter() -> MotionAdapter:
    adapter = MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=8, motion_num_attention_heads=2
    )
    for parameter in adapter.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.2)
    return adapter


def animatediff(cls: type = AnimateDiffPipeline) -> Any:
    modules = sd().components
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    return cls(**{name: modules[name] for name in names}, motion_adapter=motion_adapter())


def svd() -> StableVideoDiffusionPipeline:
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=16,
        num_attention_heads=2,
        projection_class_embeddings_input_dim=24,
        addition_time_embed_dim=8,
    )
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        steps_offset=1,
    )
    processor = CLIPImageProcessor()
    return StableVideoDiffusionPipeline(parts.kl_vae(), vision(), unet, scheduler, processor)


def text_to_video() -> TextToVideoSDPipeline:
    unet = UNet3DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    modules = {"vae": parts.kl_vae(), "text_encoder": parts.clip_text(), "tokenizer": parts.clip_tokenizer()}
    return TextToVideoSDPipeline(**modules, unet=unet, scheduler=ddim())


def movq() -> VQModel:
    return VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=32,
        norm_type="spatial",
        num_vq_embeddings=8,
        vq_embed_dim=4,
    )


def kandinsky22(cls: type = KandinskyV22Pipeline, in_channels: int = 4, hint: bool = False) -> Any:
    unet = parts.unet(
        in_channels=in_channels,
        out_channels=8,
        addition_embed_type="image_hint" if hint else "image",
        encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj",
        resnet_time_scale_shift="scale_shift",
        class_embed_type=None,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    )
    return cls(unet=unet, scheduler=DDPMScheduler(beta_schedule="linear"), movq=movq())


def images22(prompts: int, images: int) -> dict[str, Any]:
    return {
        "image_embeds": states(prompts, 1, 16)[:, 0],
        "negative_image_embeds": states(prompts, 1, 16, 1)[:, 0],
    }


def kandinsky3() -> Kandinsky3Pipeline:
    unet = Kandinsky3UNet(
        time_embedding_dim=4,
        groups=4,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=16,
    )
    return Kandinsky3Pipeline(parts.t5_tokenizer(), parts.t5(), unet, ddim(), movq())


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
        tokenizer=parts.t5_tokenizer(),
        text_encoder=parts.t5(),
        unet=unet,
        scheduler=scheduler,
        **nothing,
        requires_safety_checker=False,
        **changes,
    )


def ldm() -> LDMTextToImagePipeline:
    bert = CLIPTextModel(CLIPTextConfig(**parts.clip_text().config.to_dict() | {"max_position_embeddings": 77}))
    modules = {"vqvae": parts.kl_vae(), "bert": bert, "tokenizer": parts.clip_tokenizer()}
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


def pictures(prompts: int, images: int) -> dict[str, Any]:
    return {"image": picture(prompts)}


def plus_one(scale: float) -> ClassifierFreeGuidance:
    return ClassifierFreeGuidance(scale + 1)


NO_PROMPT = {"without": ("prompt",)}
V22 = NO_PROMPT | {"inputs": images22}
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
    Family("animatediff", animatediff, "epsilon", fixed=SMALL | {"num_frames": 3}, **VIDEOS),
    Family(
        "animatediff-video-to-video",
        lambda: animatediff(AnimateDiffVideoToVideoPipeline),
        "epsilon",
        lambda prompts, images: {"video": [[gradient(16)] * 3] * prompts},
        {"strength": 0.75} | SMALL,
        **VIDEOS,
    ),
    Family(
        "svd",
        svd,
        "v_prediction",
        lambda prompts, images: {"image": [gradient(32)] * prompts},
        SMALL | {"num_frames": 3},
        scale="max_guidance_scale",
        **VIDEOS,
        **NO_PROMPT,
    ),
    Family("text-to-video-sd", text_to_video, "epsilon", fixed=SMALL | {"num_frames": 3}, images=""),
    Family("kandinsky22", kandinsky22, "epsilon", fixed=SMALL, **V22),
    Family(
        "kandinsky22-img2img",
        lambda: kandinsky22(KandinskyV22Img2ImgPipeline),
        "epsilon",
        lambda p, i: images22(p, i) | {"image": gradient(16)},
        SMALL | {"strength": 0.75},
        images="",
        without=("prompt",),
    ),
    Family(
        "kandinsky22-inpaint",
        lambda: kandinsky22(KandinskyV22InpaintPipeline, in_channels=9),
        "epsilon",
        lambda p, i: images22(p, i) | {"image": picture(p), "mask_image": torch.eye(16).repeat(p, 1, 1, 1)},
        SMALL,
        images="",
        without=("prompt",),
    ),
    Family(
        "kandinsky22-controlnet",
        lambda: kandinsky22(KandinskyV22ControlnetPipeline, 8, hint=True),
        "epsilon",
        lambda p, i: images22(p, i) | {"hint": states(p, 3 * 64, 64).view(p, 3, 64, 64)},
        SMALL,
        images="",
        output="pt",
        without=("prompt",),
    ),
    Family("kandinsky3", kandinsky3, "epsilon", fixed=SMALL, native=plus_one),
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
