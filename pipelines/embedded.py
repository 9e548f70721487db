"""The models that ship inside the package: what there is, and how their shared parts become pipelines.

models/emoji-clip   CLIPModel and CLIPTokenizer; its text tower conditions the pipelines
models/emoji-vae    AutoencoderTiny, 64 x 64 x 3 pixels <-> 8 x 8 x 32 latents
models/emoji-sd     unet, scheduler
models/emoji-flow   transformer, scheduler
models/emoji-lcm    low-rank update of emoji-sd's unet, scheduler
models/emoji-judge  CLIPModel and CLIPTokenizer, to judge by
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError, unknown
from .low_rank import merge
from .scale_input import with_scale_input

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class EmbeddedModel:
    """One embedded model. The defaults are those of `diffguide generate`; `parts` are folders of MODELS.

    denoiser: the folder of the denoiser in the model's own, "" for a model that is no pipeline.
    """

    class_name: str
    description: str
    parts: tuple[str, ...]
    denoiser: str = ""
    guidance: str = "cfg"
    guidance_scale: float = 7.5
    steps: int = 25

    def files(self) -> list[Path]:
        """All files of all parts; those of a part that is missing are left out."""
        return [path for part in self.parts for path in sorted((MODELS / part).rglob("*")) if path.is_file()]


EMBEDDED: dict[str, EmbeddedModel] = {
    "emoji-sd": EmbeddedModel(
        "StableDiffusionPipeline",
        "emoji from their names, 64 x 64; UNet, v-prediction",
        ("emoji-sd", "emoji-vae", "emoji-clip"),
        denoiser="unet",
        guidance_scale=4.0,
    ),
    "emoji-flow": EmbeddedModel(
        "StableDiffusion3Pipeline",
        "emoji from their names, 64 x 64; SD3 transformer, flow matching",
        ("emoji-flow", "emoji-vae", "emoji-clip"),
        denoiser="transformer",
        guidance_scale=3.0,
    ),
    "emoji-lcm": EmbeddedModel(
        "LatentConsistencyModelPipeline",
        "emoji from their names in 2 to 4 evaluations; distilled from emoji-sd",
        ("emoji-lcm", "emoji-sd", "emoji-vae", "emoji-clip"),
        denoiser="unet",
        guidance="native",
        guidance_scale=4.0,
        steps=4,
    ),
    "emoji-clip": EmbeddedModel(
        "CLIPModel", "text and image towers trained on the emoji; no pipeline, but a part of each", ("emoji-clip",)
    ),
    "emoji-judge": EmbeddedModel(
        "CLIPModel", "another CLIP of the emoji, to judge by what nothing here was optimised for", ("emoji-judge",)
    ),
}


def check_embedded(name: str) -> EmbeddedModel:
    """The pipeline called `name`. UserError: no such name, not a pipeline, or its files are missing."""
    pipelines = [key for key, model in EMBEDDED.items() if model.denoiser]
    if name not in EMBEDDED:
        raise unknown("model", name, pipelines)
    model = EMBEDDED[name]
    if not model.denoiser:
        raise UserError(f"{name!r} is a {model.class_name}, not a pipeline: choose from {', '.join(pipelines)}")
    missing = [part for part in model.parts if not (MODELS / part).is_dir()]
    if missing:
        raise UserError(f"model {name!r} is not complete, its part {missing[0]!r} is missing: install diffguide again")
    return model


def assemble(name: str, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline called `name` on the CPU, its weights in `dtype`. UserError as `check_embedded`."""
    import torch

    model = check_embedded(name)
    pipe = _BUILDERS[model.class_name](MODELS / name, dtype)
    for part in _CONVOLUTIONAL & set(pipe.components):
        pipe.components[part].to(memory_format=torch.channels_last)
    pipe.register_to_config(_name_or_path=name)
    return pipe


def _stable_diffusion(folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype)
    return _with_unet(StableDiffusionPipeline, folder, unet, dtype)


def _latent_consistency(folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
    import torch
    from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel

    teacher = UNet2DConditionModel.from_pretrained(MODELS / "emoji-sd" / "unet", torch_dtype=torch.float32)
    unet = with_scale_input(teacher)
    merge(unet, folder / "pytorch_lora_weights.safetensors")
    return _with_unet(LatentConsistencyModelPipeline, folder, unet.to(dtype).eval(), dtype)


def _with_unet(cls: Any, folder: Path, unet: Any, dtype: torch.dtype) -> DiffusionPipeline:
    """A pipeline of Stable Diffusion's form with this UNet and the scheduler of the folder."""
    from transformers import CLIPTextModel

    return cls(
        **_shared_parts(folder, dtype),
        text_encoder=CLIPTextModel.from_pretrained(MODELS / "emoji-clip", dtype=dtype),
        unet=unet,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _stable_diffusion_3(folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    parts = _shared_parts(folder, dtype)
    transformer = SD3Transformer2DModel.from_pretrained(folder / "transformer", torch_dtype=dtype)
    transformer.register_forward_pre_hook(_as_trained, with_kwargs=True)
    # One text tower in both places, and no T5: the model was trained so, and the pipeline puts zeros for the latter.
    text_encoder = CLIPTextModelWithProjection.from_pretrained(MODELS / "emoji-clip", dtype=dtype)
    return StableDiffusion3Pipeline(
        **parts,
        tokenizer_2=parts["tokenizer"],
        tokenizer_3=None,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder,
        text_encoder_3=None,
        transformer=transformer,
    )


def _as_trained(transformer: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Of the zeros in T5's place as many as in training; the pipeline has 256, and attention would go to all."""
    states = kwargs.get("encoder_hidden_states")
    return args, kwargs if states is None else kwargs | {"encoder_hidden_states": states[:, :_FLOW_STATES]}


def _shared_parts(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    import diffusers
    from transformers import CLIPTokenizer

    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    return {
        "vae": diffusers.AutoencoderTiny.from_pretrained(MODELS / "emoji-vae", torch_dtype=dtype),
        "tokenizer": CLIPTokenizer.from_pretrained(MODELS / "emoji-clip"),
        "scheduler": getattr(diffusers, scheduler["_class_name"]).from_config(scheduler),
    }


_BUILDERS = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "LatentConsistencyModelPipeline": _latent_consistency,
}
_CONVOLUTIONAL = {"unet", "vae"}  # faster with the channels last
_FLOW_STATES = 40  # what emoji-flow was trained with: 20 text states, and as many zeros
