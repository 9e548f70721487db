"""Stable Diffusion and what is built on its UNet: both predictions in one call, the unconditional one first."""

from __future__ import annotations

from .layouts import Layout

# Rows of frames: the text states are repeated for each frame, and so are the features of a ControlNet.
_FRAMES = tuple(
    (name, 0)
    for name in (
        "encoder_hidden_states",
        "image_embeds",
        "down_block_additional_residuals",
        "mid_block_additional_residual",
    )
)

STABLE_DIFFUSION: tuple[Layout, ...] = (
    Layout(
        (
            "StableDiffusionPipeline",
            "StableDiffusionImg2ImgPipeline",
            "StableDiffusionInpaintPipeline",
            "StableDiffusionControlNetPipeline",
            "StableDiffusionControlNetImg2ImgPipeline",
            "StableDiffusionControlNetInpaintPipeline",
            "StableDiffusionAdapterPipeline",
            "StableDiffusionDepth2ImgPipeline",
            "StableDiffusionUpscalePipeline",
            "StableDiffusionImageVariationPipeline",
            "StableUnCLIPPipeline",
            "StableUnCLIPImg2ImgPipeline",
            "StableDiffusionXLPipeline",
            "StableDiffusionXLImg2ImgPipeline",
            "StableDiffusionXLInpaintPipeline",
            "StableDiffusionXLControlNetPipeline",
            "StableDiffusionXLControlNetImg2ImgPipeline",
            "StableDiffusionXLControlNetInpaintPipeline",
            "StableDiffusionXLControlNetUnionPipeline",
            "StableDiffusionXLControlNetUnionImg2ImgPipeline",
            "StableDiffusionXLControlNetUnionInpaintPipeline",
            "StableDiffusionXLAdapterPipeline",
            "KolorsPipeline",
            "KolorsImg2ImgPipeline",
            "LDMTextToImagePipeline",
            "AltDiffusionPipeline",
            "AltDiffusionImg2ImgPipeline",
            "BlipDiffusionPipeline",
            "BlipDiffusionControlNetPipeline",
            "PaintByExamplePipeline",
            "StableDiffusionControlNetXSPipeline",
            "StableDiffusionXLControlNetXSPipeline",
            "StableDiffusionDiffEditPipeline",
            "StableDiffusionGLIGENPipeline",
            "StableDiffusionInpaintPipelineLegacy",
            "StableDiffusionLDM3DPipeline",
            "StableDiffusionModelEditingPipeline",
            "AudioLDMPipeline",
            "AudioLDM2Pipeline",
            "MusicLDMPipeline",
            "I2VGenXLPipeline",
            "TextToVideoSDPipeline",
            "VideoToVideoSDPipeline",
        )
    ),
    # The upscaler's preconditioning stands between its UNet, which also has a channel too many, and the scheduler.
    Layout(("StableDiffusionLatentUpscalePipeline",), width=4, predicts="other"),
    Layout(
        ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline"),
        third=("image", ("cond", "image", "uncond")),
    ),
    Layout(
        ("DreamLitePipeline",),
        third=("image", ("uncond", "image", "cond")),
        channel_dim=3,
        width="half",
    ),
    Layout(
        (
            "StableDiffusion3Pipeline",
            "StableDiffusion3Img2ImgPipeline",
            "StableDiffusion3InpaintPipeline",
            "StableDiffusion3ControlNetPipeline",
            "StableDiffusion3ControlNetInpaintingPipeline",
        ),
        denoisers=("transformer",),
        further_calls=True,
    ),
    Layout(
        (
            "AnimateDiffPipeline",
            "AnimateDiffControlNetPipeline",
            "AnimateDiffSDXLPipeline",
            "AnimateDiffSparseControlNetPipeline",
            "AnimateDiffVideoToVideoPipeline",
            "AnimateDiffVideoToVideoControlNetPipeline",
            "PIAPipeline",
        ),
        split=_FRAMES,
    ),
    Layout(
        ("StableVideoDiffusionPipeline",),
        scale="max_guidance_scale",
        per_frame=True,
    ),
    Layout(
        (
            "VersatileDiffusionDualGuidedPipeline",
            "VersatileDiffusionImageVariationPipeline",
            "VersatileDiffusionTextToImagePipeline",
        ),
        denoisers=("image_unet",),
    ),
)
