"""Tiny random pipelines of every family, with the real diffusers classes, in memory and deterministic; one table."""

from typing import Any

import tiny_encoders as encoders
import tiny_parts as parts
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    QwenImagePipeline,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
    WanPipeline,
)
from tiny_family import Family
from tiny_inputs import picture

from diffguide.guidance import ClassifierFreeGuidance, NormMatching

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def ddim(prediction: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction)


def sd(cls: type = StableDiffusionPipeline, prediction: str = "epsilon", in_channels: int = 4, **changes: Any) -> Any:
    modules = {
        "unet": parts.unet(in_channels=in_channels),
        "vae": parts.tiny_vae(),
        "text_encoder": encoders.clip_text(),
        "tokenizer": encoders.clip_tokenizer(),
        "scheduler": ddim(prediction),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return cls(**(modules | changes))


def sd_controlnet() -> StableDiffusionControlNetPipeline:
    return sd(StableDiffusionControlNetPipeline, controlnet=parts.controlnet())


def sdxl(cls: type = StableDiffusionXLPipeline, **changes: Any) -> Any:
    modules = {
        "unet": parts.unet(**parts.SDXL),
        "vae": parts.tiny_vae(),
        "text_encoder": encoders.clip_text(),
        "text_encoder_2": encoders.clip_text(projection=True),
        "tokenizer": encoders.clip_tokenizer(),
        "tokenizer_2": encoders.clip_tokenizer(),
        "scheduler": ddim(),
        "add_watermarker": False,
    }
    return cls(**(modules | changes))


def sd3(cls: type = StableDiffusion3Pipeline, **changes: Any) -> Any:
    modules = {
        "transformer": parts.sd3_transformer(),
        "vae": parts.kl_vae(),
        "text_encoder": encoders.clip_text(projection=True),
        "text_encoder_2": encoders.clip_text(projection=True),
        "text_encoder_3": None,
        "tokenizer": encoders.clip_tokenizer(),
        "tokenizer_2": encoders.clip_tokenizer(),
        "tokenizer_3": None,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    return cls(**(modules | changes))


def flux(cls: type = FluxPipeline, **changes: Any) -> Any:
    modules = {
        "transformer": parts.flux_transformer(),
        "vae": parts.kl_vae(),
        "text_encoder": encoders.clip_text(),
        "text_encoder_2": encoders.t5(),
        "tokenizer": encoders.clip_tokenizer(),
        "tokenizer_2": encoders.t5_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }
    return cls(**(modules | changes))


def qwen(cls: type = QwenImagePipeline, **changes: Any) -> Any:
    modules = {
        "transformer": parts.qwen_transformer(),
        "vae": parts.qwen_vae(),
        "text_encoder": encoders.qwen_text(),
        "tokenizer": encoders.qwen_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }
    return cls(**(modules | changes))


def wan(cls: type = WanPipeline, **changes: Any) -> Any:
    modules = {
        "transformer": parts.wan_transformer(),
        "vae": parts.wan_vae(),
        "text_encoder": encoders.t5(multilingual=True),
        "tokenizer": encoders.t5_tokenizer(),
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    }
    return cls(**(modules | changes))


def wan22() -> WanPipeline:
    return wan(transformer_2=parts.wan_transformer(), boundary_ratio=0.8)


def pictured(prompts: int, images: int) -> dict[str, Any]:
    return {"image": picture(prompts)}


def masked(prompts: int, images: int) -> dict[str, Any]:
    mask = torch.zeros(prompts, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    return {"image": picture(prompts), "mask_image": mask, "height": 16, "width": 16, "strength": 1.0}


FLUX = {"scale": "true_cfg_scale", "negative": "", "denoisers": ("transformer",)}


QWEN = FLUX | {"negative": " ", "native": lambda scale: NormMatching(ClassifierFreeGuidance(scale))}


VIDEO = {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 16}


WAN = {"fixed": VIDEO, "images": "num_videos_per_prompt"}


FAMILIES = (
    Family("sd", sd, "epsilon"),
    Family("sd-v", lambda: sd(prediction="v_prediction"), "v_prediction"),
    Family(
        "sd-img2img",
        lambda: sd(StableDiffusionImg2ImgPipeline),
        "epsilon",
        lambda prompts, images: {"image": picture(prompts * images), "strength": 0.75},
    ),
    Family("sd-inpaint-4", lambda: sd(StableDiffusionInpaintPipeline), "epsilon", masked),
    Family("sd-inpaint-9", lambda: sd(StableDiffusionInpaintPipeline, in_channels=9), "epsilon", masked),
    Family("sd-controlnet", sd_controlnet, "epsilon", pictured),
    Family("sd-controlnet-guess", sd_controlnet, "epsilon", pictured, {"guess_mode": True}),
    Family("sdxl", sdxl, "epsilon", fixed={"height": 16, "width": 16}),
    Family("sd3", sd3, "flow", fixed={"height": 16, "width": 16}, denoisers=("transformer",)),
    Family("flux", flux, "flow", fixed={"height": 16, "width": 16, "max_sequence_length": 16}, **FLUX),
    Family("qwen", qwen, "flow", fixed={"height": 32, "width": 32}, **QWEN),
    Family("wan21", wan, "flow", **WAN, denoisers=("transformer",)),
    Family("wan22", wan22, "flow", **WAN, denoisers=("transformer", "transformer_2")),
)
