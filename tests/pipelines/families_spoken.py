"""Image, sound and editing pipelines with large text encoders of their own, which random embeddings stand in for."""

from typing import Any

import tiny_parts as parts
import torch
from families_editing import PICTURE, small_reference
from tiny import FLUX
from tiny_family import Family
from tiny_inputs import BIG, TRANSFORMER
from tiny_made import GIVEN, MASKED, ROPE, Processor, embedded, matched, model, of, still, words
from torch import Tensor

from diffguide.guidance import ClassifierFreeGuidance, NormMatching


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


ONE_PICTURE = {"image": PICTURE}


SPOKEN = (
    Family(
        "qwen21",
        qwen21,
        "flow",
        fixed={"image": PICTURE.convert("RGBA"), "output_resolution": 32, **BIG},
        **FLUX | {"negative": " "},
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
        fixed=BIG,
        **MASKED | {"native": matched},
    ),
    Family("glm", glm, "flow", glm_inputs, BIG, **GIVEN),
    Family("joyimage-edit", joyimage, "flow", fixed={"image": PICTURE, **BIG}, native=joy_matched, **TRANSFORMER),
    Family(
        "ideogram4",
        ideogram4,
        "flow",
        fixed={**BIG, "guidance_schedule": None, "max_sequence_length": 4},
        denoisers=("transformer", "unconditional_transformer"),
    ),
)
