"""Cosmos, Helios and Kandinsky 6: copied predictions, sections, several outputs."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import tiny_parts as parts
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, HeliosScheduler
from families_editing import PICTURE
from families_hunyuan import hunyuan_vae
from families_video_two import CLIP, EMBEDS, VIDEOS, unipc
from tiny_family import Family
from tiny_inputs import BIG, frames, plus_one
from tiny_made import embedded, model, of, still


class Unguarded:
    """Stands where the guardrail models would."""

    def to(self, *args: Any) -> None: ...

    def check_text_safety(self, text: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


COSMOS = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "text_embed_dim": 16,
    "adaln_lora_dim": 4,
    "max_size": (4, 16, 16),
    "extra_pos_embed_type": None,
    "encoder_hidden_states_channels": 16,
}


def edm() -> EDMEulerScheduler:
    return EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80, sigma_data=0.5, sigma_schedule="karras", final_sigmas_type="zero"
    )


def karras() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)


def karras_with_data() -> FlowMatchEulerDiscreteScheduler:
    scheduler = karras()
    scheduler.register_to_config(sigma_data=1.0, sigma_max=80.0, sigma_min=0.002, final_sigmas_type="zero")
    return scheduler


def cosmos_vae() -> Any:
    return model(
        "AutoencoderKLCosmos",
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
        patch_size=4,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        latents_mean=None,
        latents_std=None,
    )()


def cosmos(name: str, scheduler: Callable[[], Any], vae: Any = parts.wan_vae, **options: Any) -> Callable[[], Any]:
    more = {"controlnet": control} if "Transfer" in name else {}
    transformer = model("CosmosTransformer3DModel", **COSMOS | options)
    return of(name, transformer, vae=vae, scheduler=scheduler, safety_checker=Unguarded, **more)


def control() -> Any:
    return model(
        "CosmosControlNetModel",
        n_controlnet_blocks=1,
        in_channels=4 + 4 + 2,
        latent_channels=6,
        model_channels=32,
        num_attention_heads=2,
        attention_head_dim=16,
        mlp_ratio=2.0,
        text_embed_dim=16,
        adaln_lora_dim=4,
        max_size=(4, 16, 16),
        extra_pos_embed_type=None,
        encoder_hidden_states_channels=16,
    )()


PLUS = {"native": plus_one, **EMBEDS}
HELIOS = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 16,
    "num_layers": 1,
    "rope_dim": (4, 4, 4),
}
SECTIONS = {**BIG, "num_frames": 10, "num_latent_frames_per_chunk": 2}


def helios(name: str, stages: int, transformer: Any = None, **options: Any) -> Callable[[], Any]:
    def scheduler() -> HeliosScheduler:
        ranges = [0, 1 / 2, 1] if stages == 2 else [0, 1]
        return HeliosScheduler(stages=stages, stage_range=ranges, scheduler_type="euler", gamma=0.3)

    return of(name, model("HeliosTransformer3DModel", **HELIOS), vae=parts.wan_vae, scheduler=scheduler, **options)


def chunked(prompts: int, images: int) -> dict[str, Any]:
    """Sizes of the history in a list of their own: the pipeline changes it."""
    return embedded(prompt_embeds=(5, 16))(prompts, images) | {"history_sizes": [4, 2, 1]}


class Sound:
    """Says how many latents a second of sound has; here none are ever decoded."""

    config = SimpleNamespace(sample_rate=16000)
    latent_hop_length = 1000


KANDINSKY6 = {
    "in_visual_dim": 4,
    "out_visual_dim": 4,
    "in_text_dim": 16,
    "in_text_dim2": 8,
    "time_dim": 16,
    "model_dim": 32,
    "ff_dim": 32,
    "num_text_blocks": 1,
    "num_visual_blocks": 1,
    "axes_dims": (8, 4, 4),
    "in_audio_dim": 4,
    "out_audio_dim": 4,
    "model_dim_a": 32,
    "time_dim_a": 16,
    "ff_dim_a": 32,
    "axes_dims_a": (16,),
    "visual_token_type_num_embeddings": 2,
}

WORLDS = (
    Family("cosmos1", cosmos("CosmosTextToWorldPipeline", edm, cosmos_vae), "epsilon", fixed=CLIP, **PLUS),
    Family(
        "cosmos1-video",
        cosmos("CosmosVideoToWorldPipeline", edm, cosmos_vae, in_channels=5),
        "epsilon",
        fixed=CLIP | {"image": PICTURE, "augment_sigma": 0.0},
        **PLUS,
    ),
    Family(
        "cosmos2",
        cosmos("Cosmos2TextToImagePipeline", karras_with_data),
        "flow",
        fixed=BIG,
        **PLUS | {"images": "num_images_per_prompt"},
    ),
    Family(
        "cosmos2-video",
        cosmos("Cosmos2VideoToWorldPipeline", karras_with_data, in_channels=5),
        "flow",
        fixed=CLIP | {"image": PICTURE},
        **PLUS,
    ),
    Family(
        "cosmos2.5-predict",
        cosmos("Cosmos2_5_PredictBasePipeline", unipc, in_channels=5),
        "flow",
        fixed=CLIP | {"image": PICTURE},
        **PLUS,
    ),
    Family(
        "cosmos2.5-transfer",
        cosmos("Cosmos2_5_TransferPipeline", unipc, in_channels=5, controlnet_block_every_n=1),
        "flow",
        fixed=BIG | {"controls": frames(5), "num_frames": 5, "num_frames_per_chunk": 5},
        **PLUS,
    ),
    Family("helios", helios("HeliosPipeline", 1), "flow", chunked, SECTIONS, **VIDEOS),
    Family(
        "helios-pyramid",
        helios("HeliosPyramidPipeline", 2),
        "other",
        chunked,
        SECTIONS | {"pyramid_num_inference_steps_list": [2, 2]},
        without=("num_inference_steps",),
        **VIDEOS,
    ),
    Family(
        "kandinsky6",
        of(
            "Kandinsky6TI2VAPipeline",
            model("Kandinsky6Transformer3DModel", **KANDINSKY6),
            vae=hunyuan_vae,
            scheduler=still,
            audio_vae=Sound,
            vocoder=Sound,
        ),
        "flow",
        embedded(prompt_embeds=(5, 16), pooled_prompt_embeds=(8,)),
        CLIP,
        **VIDEOS,
    ),
)
