"""LongCat: images, editing and sound."""

import importlib
from collections.abc import Callable
from typing import Any

import diffusers
import tiny_encoders as encoders
import tiny_parts as parts
from families_editing import PICTURE, small_reference
from tiny_family import Family
from tiny_inputs import BIG, TRANSFORMER
from tiny_made import ROPE, WIDE, Processor, model, of, words
from tiny_parts import awake


def longcat(name: str) -> Callable[[], Any]:
    def encode(pipe: Any, prompt: Any = None, num_images_per_prompt: int = 1, **_: Any) -> Any:
        embeds = words(pipe, prompt, num_images_per_prompt)
        home = importlib.import_module(type(pipe).__module__)
        return embeds, home.prepare_pos_ids(type="text", start=(0, 0), num_token=embeds.shape[1])

    def make() -> Any:
        if "Edit" in name:
            small_reference("longcat_image.pipeline_longcat_image_edit")
        transformer = model("LongCatImageTransformer2DModel", in_channels=64, **WIDE, **ROPE, pooled_projection_dim=16)
        vae = parts.kl_vae(16)
        return of(name, transformer, {"encode_prompt": encode}, vae=vae, text_processor=Processor)()

    return make


def longcat_audio() -> Any:
    options = {"dit_dim": 16, "dit_depth": 2, "dit_heads": 2, "dit_text_dim": 16, "latent_dim": 4}

    def transformer() -> Any:
        return awake(diffusers.LongCatAudioDiTTransformer(**options))

    vae = model("LongCatAudioDiTVae", channels=4, c_mults=[1, 1], strides=[2, 2], latent_dim=4, encoder_latent_dim=8)
    text = {"text_encoder": lambda: encoders.t5(multilingual=True), "tokenizer": encoders.t5_tokenizer}
    return of("LongCatAudioDiTPipeline", transformer, vae=vae, scheduler=None, **text)()


def refused(prompts: int, images: int) -> dict[str, Any]:
    """A negative prompt for each prompt, where the pipeline's own would be one for all."""
    return {"negative_prompt": [""] * prompts}


NO_REWRITE = {"enable_prompt_rewrite": False, "enable_cfg_renorm": False}


LONGCAT = (
    Family("longcat", longcat("LongCatImagePipeline"), "flow", refused, BIG | NO_REWRITE, **TRANSFORMER),
    Family(
        "longcat-edit",
        longcat("LongCatImageEditPipeline"),
        "flow",
        fixed={"image": PICTURE},
        batch=(1, 2),
        **TRANSFORMER,
    ),
    Family(
        "longcat-audio", longcat_audio, "flow", fixed={"audio_duration_s": 0.5}, images="", batch=(2, 1), **TRANSFORMER
    ),
)
