"""Pipelines that call their denoiser twice a step, the conditional prediction first."""

from __future__ import annotations

from typing import Any

from .layouts import Layout


def _two(*classes: str, **traits: Any) -> Layout:
    common: dict[str, Any] = {"calls": "two", "denoisers": ("transformer",), "scaled_timestep": True}
    return Layout(classes, **common | traits)


def _true_cfg(negative: str, *classes: str, **traits: Any) -> Layout:
    """Guidance comes on with `true_cfg_scale` and a negative prompt; `guidance_scale` is a distilled model's input."""
    return _two(*classes, scale="true_cfg_scale", negative=negative, **traits)


TWO_CALLS: tuple[Layout, ...] = (
    _true_cfg("", "FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxControlNetPipeline"),
    _true_cfg("", "FluxKontextPipeline", "FluxKontextInpaintPipeline", tokens="first"),
    _two("Flux2KleinPipeline", "Flux2KleinInpaintPipeline", tokens="first"),
    _true_cfg(
        " ",
        "QwenImagePipeline",
        "QwenImageImg2ImgPipeline",
        "QwenImageInpaintPipeline",
        "QwenImageControlNetPipeline",
        "QwenImageControlNetInpaintPipeline",
    ),
    _true_cfg(
        " ",
        "QwenImageEditPipeline",
        "QwenImageEditPlusPipeline",
        "QwenImageEditInpaintPipeline",
        "QwenImageLayeredPipeline",
        tokens="first",
    ),
    _true_cfg(" ", "QwenImage21Pipeline", tokens="last"),
    _two("LongCatImagePipeline"),
    _two("LongCatImageEditPipeline", tokens="first"),
    _two("LongCatAudioDiTPipeline"),
    _two("ChromaPipeline", "ChromaImg2ImgPipeline"),
    _two("ChromaInpaintPipeline", other_scales=("true_cfg_scale",)),
    _two("CogView4Pipeline", "CogView4ControlPipeline"),
    _two("Lumina2Pipeline", predicts="negated"),
    _two("NucleusMoEImagePipeline", predicts="negated"),
    _two("OvisImagePipeline"),
    _two("GlmImagePipeline", float32=True),
    _two("Krea2Pipeline", off=0.0, offset=1.0),
    _two("BriaFibo2Pipeline", float32=True),
    _two("JoyImageEditPipeline", tokens="last"),
    _two(
        "Ideogram4Pipeline",
        denoisers=("transformer", "unconditional_transformer"),
        second="unconditional_transformer",
        also=(("guidance_schedule", None),),
        predicts="negated",
        tokens="last",
        float32=True,
    ),
    _two(
        "WanPipeline",
        "WanVideoToVideoPipeline",
        "WanVACEPipeline",
        "LucyEditPipeline",
        other_scales=("guidance_scale_2",),
        denoisers=("transformer", "transformer_2"),
    ),
    _two(
        "WanImageToVideoPipeline",
        other_scales=("guidance_scale_2",),
        denoisers=("transformer", "transformer_2"),
        first_frame=2,
    ),
    _two("WanAnimatePipeline", "ChronoEditPipeline", "SkyReelsV2Pipeline", "SkyReelsV2ImageToVideoPipeline"),
    _two(
        "SkyReelsV2DiffusionForcingPipeline",
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        frame_timesteps=True,
    ),
    _true_cfg("", "HunyuanVideoPipeline", "HunyuanSkyreelsImageToVideoPipeline", "HunyuanVideoFramepackPipeline"),
    _true_cfg("", "HunyuanVideoImageToVideoPipeline", first_frame=2),
    _two("Kandinsky5T2VPipeline", "Kandinsky5T2IPipeline", "Kandinsky5I2IPipeline"),
    _two("Kandinsky5I2VPipeline", first_frame=1),
    _two("Kandinsky6TI2VAPipeline", streams=("audio_hidden_states",), tokens="first"),
    _two("HeliosPipeline"),
    _two("HeliosPyramidPipeline", predicts="other"),
    _two("CosmosTextToWorldPipeline", "CosmosVideoToWorldPipeline", float32=True, offset=1.0),
    _two("Cosmos2TextToImagePipeline", predicts="ratio", copied=True, float32=True, offset=1.0),
    _two("Cosmos2VideoToWorldPipeline", predicts="ratio", copied=True, float32=True, offset=1.0, mask="condition_mask"),
    _two(
        "Cosmos2_5_PredictBasePipeline",
        "Cosmos2_5_TransferPipeline",
        copied=True,
        float32=True,
        offset=1.0,
        mask="condition_mask",
    ),
    Layout(
        ("Cosmos3OmniPipeline",),
        refused="its denoiser takes and returns packed tokens of video, sound and action without a batch, of which the "
        "pipeline keeps masked copies",
    ),
)
