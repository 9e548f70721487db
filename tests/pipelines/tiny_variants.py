"""More pipelines of the families in `tiny`: image-to-image, inpainting, ControlNets, adapters, video-to-video."""

from typing import Any

import tiny_parts as parts
from diffusers import (
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    T2IAdapter,
)
from tiny import FLUX, QWEN, flux, qwen, sd, sd3, sdxl
from tiny_family import Family
from tiny_inputs import SMALL, TRANSFORMER, control, image, mask, picture
from tiny_parts import awake

# An adapter's features are as large as what a block without attention gives only before it halves its input.
ATTENTION_FIRST = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def adapter() -> T2IAdapter:
    return T2IAdapter(channels=[16, 32], num_res_blocks=1, downscale_factor=2)


def sdxl_adapter() -> StableDiffusionXLAdapterPipeline:
    modules = sdxl().components | {"unet": parts.unet(**parts.SDXL, **ATTENTION_FIRST)}
    return StableDiffusionXLAdapterPipeline(**modules, adapter=adapter())


def sd3_inpaint(channels: int) -> StableDiffusion3InpaintPipeline:
    transformer = parts.sd3_transformer(in_channels=channels, out_channels=16)
    return sd3(StableDiffusion3InpaintPipeline, transformer=transformer, vae=parts.kl_vae(16))


def sd3_controlnet() -> Any:
    transformer = parts.sd3_transformer()
    return awake(SD3ControlNetModel.from_transformer(transformer, num_layers=1, num_extra_conditioning_channels=0))


def flux_controlnet() -> Any:
    return awake(FluxControlNetModel.from_transformer(parts.flux_transformer(), 1, 1, 16, 2))


def qwen_controlnet() -> Any:
    return awake(QwenImageControlNetModel.from_config(parts.qwen_transformer().config))


IMG2IMG: dict[str, Any] = {"image": picture(1), "strength": 0.75}


INPAINT: dict[str, Any] = IMG2IMG | SMALL | {"mask_image": mask(16)}


BIG = {"height": 32, "width": 32, "image": image(32)}


SHORT = {"max_sequence_length": 16}


VARIANTS = (
    Family(
        "sd-controlnet-img2img",
        lambda: sd(StableDiffusionControlNetImg2ImgPipeline, controlnet=parts.controlnet()),
        "epsilon",
        fixed=IMG2IMG | control(),
    ),
    Family(
        "sd-controlnet-inpaint",
        lambda: sd(StableDiffusionControlNetInpaintPipeline, controlnet=parts.controlnet()),
        "epsilon",
        fixed=INPAINT | control(),
    ),
    Family(
        "sd-adapter",
        lambda: sd(StableDiffusionAdapterPipeline, adapter=adapter(), unet=parts.unet(**ATTENTION_FIRST)),
        "epsilon",
        fixed={"image": image()},
    ),
    Family("sdxl-img2img", lambda: sdxl(StableDiffusionXLImg2ImgPipeline), "epsilon", fixed=IMG2IMG),
    Family("sdxl-inpaint", lambda: sdxl(StableDiffusionXLInpaintPipeline), "epsilon", fixed=INPAINT),
    Family(
        "sdxl-controlnet",
        lambda: sdxl(StableDiffusionXLControlNetPipeline, controlnet=parts.controlnet(**parts.SDXL)),
        "epsilon",
        fixed=SMALL | {"image": image()},
    ),
    Family(
        "sdxl-controlnet-img2img",
        lambda: sdxl(StableDiffusionXLControlNetImg2ImgPipeline, controlnet=parts.controlnet(**parts.SDXL)),
        "epsilon",
        fixed=IMG2IMG | control(),
    ),
    Family(
        "sdxl-controlnet-inpaint",
        lambda: sdxl(StableDiffusionXLControlNetInpaintPipeline, controlnet=parts.controlnet(**parts.SDXL)),
        "epsilon",
        fixed=INPAINT | control(),
    ),
    Family(
        "sdxl-adapter",
        sdxl_adapter,
        "epsilon",
        fixed=SMALL | {"image": image()},
    ),
    Family("sd3-img2img", lambda: sd3(StableDiffusion3Img2ImgPipeline), "flow", fixed=IMG2IMG | SMALL, **TRANSFORMER),
    Family("sd3-inpaint-16", lambda: sd3_inpaint(16), "flow", fixed=INPAINT, **TRANSFORMER),
    Family("sd3-inpaint-33", lambda: sd3_inpaint(33), "flow", fixed=INPAINT, **TRANSFORMER),
    Family(
        "sd3-controlnet",
        lambda: sd3(StableDiffusion3ControlNetPipeline, controlnet=sd3_controlnet()),
        "flow",
        fixed=SMALL | control(),
        **TRANSFORMER,
    ),
    Family("flux-img2img", lambda: flux(FluxImg2ImgPipeline), "flow", fixed=IMG2IMG | SMALL | SHORT, **FLUX),
    Family("flux-inpaint", lambda: flux(FluxInpaintPipeline), "flow", fixed=INPAINT | SHORT, **FLUX),
    Family(
        "flux-controlnet",
        lambda: flux(FluxControlNetPipeline, controlnet=flux_controlnet()),
        "flow",
        fixed=SMALL | SHORT | control(),
        **FLUX,
    ),
    Family("qwen-img2img", lambda: qwen(QwenImageImg2ImgPipeline), "flow", fixed=BIG | {"strength": 0.75}, **QWEN),
    Family(
        "qwen-inpaint",
        lambda: qwen(QwenImageInpaintPipeline),
        "flow",
        fixed=BIG | {"strength": 0.75, "mask_image": mask(32)},
        **QWEN,
    ),
    Family(
        "qwen-controlnet",
        lambda: qwen(QwenImageControlNetPipeline, controlnet=qwen_controlnet()),
        "flow",
        fixed={"height": 32, "width": 32, "control_image": image(32)},
        **QWEN,
    ),
)
