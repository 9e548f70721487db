"""Pipelines in which no rule can act, and why."""

from __future__ import annotations

from .layouts import Layout

_THREE_WAY = "it guides along two axes at once (three predictions a step), and which of them a rule means is ambiguous"
_PERTURBED = "it adds a third, perturbed prediction to each step; use the same pipeline without PAG"
_DISTILLED = "its guidance is distilled into the model: there is no unconditional prediction to act on"

REFUSED: tuple[Layout, ...] = (
    Layout(
        (
            "LatentConsistencyModelPipeline",
            "LatentConsistencyModelImg2ImgPipeline",
            "FluxControlPipeline",
            "FluxControlImg2ImgPipeline",
            "FluxControlInpaintPipeline",
            "FluxControlNetImg2ImgPipeline",
            "FluxControlNetInpaintPipeline",
            "FluxFillPipeline",
            "Flux2Pipeline",
        ),
        refused=_DISTILLED,
    ),
    Layout(("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline"), refused=_THREE_WAY),
    Layout(
        (
            "StableDiffusionPAGPipeline",
            "StableDiffusionPAGImg2ImgPipeline",
            "StableDiffusionPAGInpaintPipeline",
            "StableDiffusionControlNetPAGPipeline",
            "StableDiffusionControlNetPAGInpaintPipeline",
            "StableDiffusionXLPAGPipeline",
            "StableDiffusionXLPAGImg2ImgPipeline",
            "StableDiffusionXLPAGInpaintPipeline",
            "StableDiffusionXLControlNetPAGPipeline",
            "StableDiffusionXLControlNetPAGImg2ImgPipeline",
            "StableDiffusion3PAGPipeline",
            "StableDiffusion3PAGImg2ImgPipeline",
            "KolorsPAGPipeline",
            "PixArtSigmaPAGPipeline",
            "SanaPAGPipeline",
            "HunyuanDiTPAGPipeline",
            "AnimateDiffPAGPipeline",
        ),
        refused=_PERTURBED,
    ),
)
