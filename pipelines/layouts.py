"""How each pipeline class evaluates its denoiser under classifier-free guidance, as one table.

A class that is not in the table is looked up through its base classes; one without any is refused, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UserError


@dataclass(frozen=True)
class Layout:
    """One pipeline class (or a family of them that behave alike).

    classes: names of the diffusers classes. calls: "uncond-first" and "cond-first" are one call with both halves in one
    batch, in that order; "two" is two calls a step, cond first. scale: the argument of `__call__` that turns the
    pipeline's own guidance on. negative: what has to be given as `negative_prompt` for guidance to be on, or None.
    other_scales: further scales of its own, which do not count under a rule.
    denoisers: the attributes that hold denoisers. unsupported: arguments that bring further passes which no rule of
    ours owns. scaled_timestep: the model is handed another timestep than the scheduler's. refused: why no rule can act
    at all, or "".
    """

    classes: tuple[str, ...]
    calls: str = "uncond-first"
    scale: str = "guidance_scale"
    negative: str | None = None
    other_scales: tuple[str, ...] = ()
    denoisers: tuple[str, ...] = ("unet",)
    unsupported: tuple[str, ...] = ()
    scaled_timestep: bool = False
    refused: str = ""


_THREE_WAY = "it guides along two axes at once (three predictions a step), and which of them a rule means is ambiguous"
_PERTURBED = "it adds a third, perturbed prediction to each step; use the same pipeline without PAG"
_DISTILLED = "its guidance is distilled into the model: there is no unconditional prediction to act on"

TABLE: tuple[Layout, ...] = (
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
        )
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
        unsupported=("skip_guidance_layers",),
    ),
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

_BY_CLASS = {name: layout for layout in TABLE for name in layout.classes}


def layout_of(pipe: object) -> Layout:
    """The layout of a pipeline, by its class or the nearest base class; UserError if it has none or is refused."""
    name = type(pipe).__name__
    for cls in type(pipe).__mro__:
        layout = _BY_CLASS.get(cls.__name__)
        if layout is None:
            continue
        if layout.refused:
            raise UserError(f"no guidance rule can act in {name}: {layout.refused}")
        return layout
    raise UserError(f"{name} is not a pipeline whose guidance is known; known are {', '.join(sorted(_BY_CLASS))}")
