"""Pixel and prior models, most of which predict their variance as well; StableCascade; tokens."""

from __future__ import annotations

from .layouts import Layout

VARIANCE: tuple[Layout, ...] = (
    Layout(
        (
            "IFPipeline",
            "IFImg2ImgPipeline",
            "IFInpaintingPipeline",
            "IFSuperResolutionPipeline",
            "IFImg2ImgSuperResolutionPipeline",
            "IFInpaintingSuperResolutionPipeline",
            "KandinskyPipeline",
            "KandinskyImg2ImgPipeline",
            "KandinskyInpaintPipeline",
            "KandinskyV22Pipeline",
            "KandinskyV22Img2ImgPipeline",
            "KandinskyV22InpaintPipeline",
            "KandinskyV22ControlnetPipeline",
            "KandinskyV22ControlnetImg2ImgPipeline",
        ),
        width="half",
    ),
    Layout(("Kandinsky3Pipeline", "Kandinsky3Img2ImgPipeline"), offset=1.0),
    Layout(
        (
            "KandinskyPriorPipeline",
            "KandinskyV22PriorPipeline",
            "KandinskyV22PriorEmb2EmbPipeline",
        ),
        denoisers=("prior",),
    ),
    Layout(("ShapEPipeline", "ShapEImg2ImgPipeline"), denoisers=("prior",), channel_dim=2, width="half"),
    # The prior of unCLIP keeps its own guidance; the rule acts in the decoder.
    Layout(
        ("UnCLIPPipeline", "UnCLIPImageVariationPipeline"),
        scale="decoder_guidance_scale",
        denoisers=("decoder",),
        scheduler="decoder_scheduler",
        width="half",
    ),
    Layout(
        ("StableCascadePriorPipeline", "WuerstchenPriorPipeline"),
        calls="cond-first",
        denoisers=("prior",),
        scaled_timestep=True,
    ),
    Layout(
        ("StableCascadeDecoderPipeline", "WuerstchenDecoderPipeline"),
        calls="cond-first",
        denoisers=("decoder",),
        scaled_timestep=True,
    ),
    Layout(("DiTPipeline",), calls="cond-first", denoisers=("transformer",)),
    Layout(
        ("AmusedPipeline", "AmusedImg2ImgPipeline", "AmusedInpaintPipeline", "VQDiffusionPipeline"),
        denoisers=("transformer",),
        scaled_timestep=True,
        predicts="other",
        width="all",
    ),
)
