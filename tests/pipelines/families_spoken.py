"""Image, sound and editing pipelines with large text encoders of their own, which random embeddings stand in for."""

import importlib
from collections.abc import Callable
from typing import Any

import diffusers
import tiny_parts as parts
import torch
from families_editing import PICTURE, small_reference
from families_two_calls import GIVEN, MASKED, ROPE, SMALL, TRANSFORMER, WIDE, embedded, matched, model, noise, of, still
from tiny import FLUX, Family
from tiny_variants import awake
from torch import Tensor

from diffguide.guidance import ClassifierFreeGuidance, NormMatching


class Processor:
    """What pipelines ask of their processor while they are made: how long a system prompt is, how to see pictures."""

    image_processor = None
    tokenizer = type("Tokenizer", (), {"encode": staticmethod(lambda text: [1])})

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        return [[0]]


def qwen21() -> Any:
    def encode(pipe: Any, prompt: Any, image: Any = None, num_images_per_prompt: int = 1, **_: Any) -> Any:
        embeds = words(pipe, prompt, num_images_per_prompt)
        pads = torch.zeros(embeds.shape[:2], dtype=torch.bool)
        if image:
            pads[:, 1:2] = True  # 2 x 2 latents make one token of what the text encoder sees
        return embeds, None, pads

    small_reference("qwenimage21.pipeline_qwenimage21")
    transformer = model(
        "QwenImage21Transformer2DModel", in_channels=4, out_channels=4, num_layers=1, context_in_dim=16, **ROPE
    )
    vae = model(
        "AutoencoderKLQwenImage21",
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return of("QwenImage21Pipeline", transformer, {"encode_prompt": encode}, vae=vae, processor=Processor)()


def words(pipe: Any, prompt: Any, copies: int = 1, tokens: int = 5, width: int = 16) -> Tensor:
    """(prompts * copies, tokens, width): random, and another for each text."""
    texts = [prompt] if isinstance(prompt, str) else prompt
    seeds = [sum(text.encode()) for text in texts for _ in range(copies)]
    return torch.cat([noise(1, tokens, width, seed=seed) for seed in seeds]).to(pipe.transformer.dtype)


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
    text = {"text_encoder": lambda: parts.t5(multilingual=True), "tokenizer": parts.t5_tokenizer}
    return of("LongCatAudioDiTPipeline", transformer, vae=vae, scheduler=None, **text)()


GLM = {
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "text_embed_dim": 16,
    "time_embed_dim": 16,
    "condition_dim": 8,
    "prior_vq_quantizer_codebook_size": 8,
}


def glm() -> Any:
    """With the means and deviations of latents, which it takes from its autoencoder."""
    vae = parts.kl_vae()
    vae.register_to_config(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    return of("GlmImagePipeline", model("GlmImageTransformer2DModel", **GLM), vae=vae)()


def glm_inputs(prompts: int, images: int) -> dict[str, Any]:
    """Edits a picture, which is written to the denoiser's cache before the first step."""
    given = embedded(prompt_embeds=(5, 16))(prompts, images)
    grid = torch.tensor([[1, 8, 8]])
    tokens = torch.arange(64) % 8
    return given | {
        "image": [[PICTURE.resize((32, 32))]] * prompts,
        "prior_token_ids": torch.arange(64).repeat(prompts, 1) % 8,
        "prior_token_image_ids": [tokens] * prompts,
        "source_image_grid_thw": [grid] * prompts,
    }


def joyimage() -> Any:
    def encode(pipe: Any, prompt: Any, num_images_per_prompt: int = 1, **_: Any) -> Any:
        return words(pipe, prompt, num_images_per_prompt), None

    transformer = model(
        "JoyImageEditTransformer3DModel",
        in_channels=4,
        out_channels=4,
        hidden_size=32,
        num_attention_heads=2,
        text_dim=16,
        num_layers=1,
        rope_dim_list=[4, 4, 8],
    )
    methods = {"encode_prompt": encode, "encode_prompt_multiple_images": encode}
    pipe = of("JoyImageEditPipeline", transformer, methods, vae=parts.wan_vae, scheduler=still)()
    pipe.vae_image_processor.get_default_height_width = lambda image, height, width: (32, 32)
    return pipe


def joy_matched(scale: float) -> NormMatching:
    return NormMatching(ClassifierFreeGuidance(scale), dim=2)


def ideogram4() -> Any:
    def encode(
        pipe: Any, prompt: Any, grid_h: int, grid_w: int, max_sequence_length: int, device: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        text = words(pipe, prompt, tokens=max_sequence_length)
        features = torch.cat([text, torch.zeros(len(text), grid_h * grid_w, text.shape[2])], dim=1)
        lengths = [max_sequence_length - 1] * len(text)
        return features, *pipe._prepare_ids(lengths, grid_h, grid_w, max_sequence_length, device)

    transformer = model(
        "Ideogram4Transformer2DModel",
        in_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        intermediate_size=16,
        adaln_dim=16,
        llm_features_dim=16,
        mrope_section=(4, 2, 2),
    )
    methods = {"encode_prompt": encode}
    return of("Ideogram4Pipeline", transformer, methods, unconditional_transformer=transformer, scheduler=still)()


def refused(prompts: int, images: int) -> dict[str, Any]:
    """A negative prompt for each prompt, where the pipeline's own would be one for all."""
    return {"negative_prompt": [""] * prompts}


ONE_PICTURE = {"image": PICTURE}
NO_REWRITE = {"enable_prompt_rewrite": False, "enable_cfg_renorm": False}

SPOKEN = (
    Family(
        "qwen21",
        qwen21,
        "flow",
        fixed={"image": PICTURE.convert("RGBA"), "output_resolution": 32, **SMALL},
        **FLUX | {"negative": " "},
    ),
    Family("longcat", longcat("LongCatImagePipeline"), "flow", refused, SMALL | NO_REWRITE, **TRANSFORMER),
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
    Family(
        "nucleus",
        of(
            "NucleusMoEImagePipeline",
            model(
                "NucleusMoEImageTransformer2DModel",
                in_channels=16,
                out_channels=4,
                num_layers=1,
                num_key_value_heads=1,
                joint_attention_dim=16,
                moe_enabled=False,
                **ROPE,
            ),
        ),
        "flow",
        fixed=SMALL,
        **MASKED | {"native": matched},
    ),
    Family("glm", glm, "flow", glm_inputs, SMALL, **GIVEN),
    Family("joyimage-edit", joyimage, "flow", fixed={"image": PICTURE, **SMALL}, native=joy_matched, **TRANSFORMER),
    Family(
        "ideogram4",
        ideogram4,
        "flow",
        fixed={**SMALL, "guidance_schedule": None, "max_sequence_length": 4},
        denoisers=("transformer", "unconditional_transformer"),
    ),
)
