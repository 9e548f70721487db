"""Pipelines in which no rule can act, and why."""

from __future__ import annotations

from .layouts import Layout

DISTILLED = "its guidance is distilled into the model: there is no unconditional prediction to act on"
_PERTURBED = "it adds a third, perturbed prediction to each step; use the same pipeline without PAG"
_EDITS = "it adds a prediction to each step for every concept that it edits, each with a mask of its own"
_GRADIENT = "it moves the latents along gradients through predictions of its own, between the guided ones"
_SPREAD = "the predictions of one step are spread over several calls of the denoiser, in which others are mixed"
_COMBINED = "it is several pipelines behind one call: guide the one you mean, such as its `decoder_pipe`"
_ONNX = "its denoiser is an ONNX session, not a torch module"

REFUSED: tuple[Layout, ...] = (
    Layout(
        (
            "DreamLiteMobilePipeline",
            "Flux2KleinKVPipeline",
            "VisualClozePipeline",
            "VisualClozeGenerationPipeline",
        ),
        refused=DISTILLED,
    ),
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
    Layout(
        (
            "LEditsPPPipelineStableDiffusion",
            "LEditsPPPipelineStableDiffusionXL",
            "SemanticStableDiffusionPipeline",
        ),
        refused=_EDITS,
    ),
    Layout(
        ("StableDiffusionPipelineSafe",),
        refused="it adds a third prediction to each step, away from which its safety guidance moves the result",
    ),
    Layout(
        ("StableDiffusionSAGPipeline",),
        refused="it adds a prediction for a blurred sample to each step, compared with the unconditional one",
    ),
    Layout(("StableDiffusionAttendAndExcitePipeline", "StableDiffusionPix2PixZeroPipeline"), refused=_GRADIENT),
    Layout(
        ("StableDiffusionGLIGENTextImagePipeline", "UniDiffuserPipeline", "CycleDiffusionPipeline"), refused=_SPREAD
    ),
    Layout(
        (
            "StableDiffusionPanoramaPipeline",
            "StableDiffusionParadigmsPipeline",
            "TextToVideoZeroPipeline",
            "TextToVideoZeroSDXLPipeline",
        ),
        refused="one call of its denoiser holds several windows, steps or frames, with rows that are not halves",
    ),
    Layout(
        ("AnyFlowFARPipeline",),
        refused="it keeps a cache per row from call to call, which half a batch would leave incomplete",
    ),
    Layout(
        (
            "KandinskyCombinedPipeline",
            "KandinskyImg2ImgCombinedPipeline",
            "KandinskyInpaintCombinedPipeline",
            "KandinskyV22CombinedPipeline",
            "KandinskyV22Img2ImgCombinedPipeline",
            "KandinskyV22InpaintCombinedPipeline",
            "WuerstchenCombinedPipeline",
            "VersatileDiffusionPipeline",
        ),
        refused=_COMBINED,
    ),
    Layout(
        ("StableCascadeCombinedPipeline",),
        refused="it is two pipelines behind one call: guide its `prior_pipe`; the other, its `decoder_pipe`, has "
        "guidance only where the call is given a decoder_guidance_scale above 1",
    ),
    Layout(
        (
            "OnnxStableDiffusionPipeline",
            "OnnxStableDiffusionImg2ImgPipeline",
            "OnnxStableDiffusionInpaintPipeline",
            "OnnxStableDiffusionInpaintPipelineLegacy",
            "OnnxStableDiffusionUpscalePipeline",
        ),
        refused=_ONNX,
    ),
)
