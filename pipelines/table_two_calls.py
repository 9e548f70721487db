"""Pipelines that call their denoiser twice a step, the conditional prediction first."""

from __future__ import annotations

from .layouts import Layout

TWO_CALLS: tuple[Layout, ...] = (
    Layout(
        ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxControlNetPipeline"),
        calls="two",
        scale="true_cfg_scale",
        negative="",
        denoisers=("transformer",),
        scaled_timestep=True,
    ),
    Layout(
        (
            "QwenImagePipeline",
            "QwenImageImg2ImgPipeline",
            "QwenImageInpaintPipeline",
            "QwenImageControlNetPipeline",
            "QwenImageControlNetInpaintPipeline",
        ),
        calls="two",
        scale="true_cfg_scale",
        negative=" ",
        denoisers=("transformer",),
        scaled_timestep=True,
    ),
    Layout(
        ("WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline", "WanVACEPipeline"),
        calls="two",
        other_scales=("guidance_scale_2",),
        denoisers=("transformer", "transformer_2"),
    ),
)
