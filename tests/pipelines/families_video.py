"""Transformers that make video or sound with both predictions in one call."""

from typing import Any

from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLMagvit,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    LattePipeline,
    LatteTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
)
from tiny import ddim
from tiny_family import Family
from tiny_inputs import BIG, TRANSFORMER, VIDEOS, gradient, masked_texts, texts
from tiny_made import FLOW, textless


def cogvideox(cls: type = CogVideoXPipeline, in_channels: int = 4) -> Any:
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=1,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=4,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=in_channels != 4,
    )
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    return textless(cls, transformer, scheduler, vae)


def latte() -> LattePipeline:
    transformer = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=16,
        video_length=2,
    )
    return textless(LattePipeline, transformer, ddim())


def mochi() -> MochiPipeline:
    transformer = MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=4,
        text_embed_dim=16,
        time_embed_dim=4,
        max_sequence_length=4,
    )
    scheduler = FLOW(num_train_timesteps=1000, invert_sigmas=True)
    nothing = {"tokenizer": None, "text_encoder": None, "vae": None}
    return MochiPipeline(transformer=transformer, scheduler=scheduler, **nothing)


def allegro() -> AllegroPipeline:
    transformer = AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        cross_attention_dim=24,
        sample_height=8,
        sample_width=8,
        sample_frames=2,
        caption_channels=16,
    )
    vae = AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    return textless(AllegroPipeline, transformer, ddim(), vae)


def easyanimate() -> EasyAnimatePipeline:
    transformer = EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        sample_width=8,
        sample_height=8,
        num_layers=1,
        mmdit_layers=1,
        time_embed_dim=8,
        text_embed_dim=16,
    )
    vae = AutoencoderKLMagvit(latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2)
    return textless(EasyAnimatePipeline, transformer, FLOW(), vae)


FAMILIES = (
    Family("cogvideox", cogvideox, "v_prediction", texts, BIG | {"num_frames": 5}, **VIDEOS, **TRANSFORMER),
    Family(
        "cogvideox-image-to-video",
        lambda: cogvideox(CogVideoXImageToVideoPipeline, 8),
        "v_prediction",
        lambda p, i: texts(p, i) | {"image": gradient(64)},
        {"height": 64, "width": 64, "num_frames": 9},
        images="",
        batch=(1, 1),
        **TRANSFORMER,
    ),
    Family(
        "cogvideox-video-to-video",
        lambda: cogvideox(CogVideoXVideoToVideoPipeline),
        "v_prediction",
        lambda p, i: texts(p, i) | {"video": [gradient(32)] * 5},
        BIG,
        images="",
        **TRANSFORMER,
    ),
    Family(
        "latte",
        latte,
        "epsilon",
        texts,
        {"height": 16, "width": 16, "video_length": 2, "negative_prompt": None},
        images="",
        **TRANSFORMER,
    ),
    Family("mochi", mochi, "flow", masked_texts, BIG | {"num_frames": 7}, images="", **TRANSFORMER),
    Family(
        "allegro",
        allegro,
        "epsilon",
        masked_texts,
        BIG | {"num_frames": 8, "negative_prompt": None},
        **VIDEOS,
        **TRANSFORMER,
    ),
    Family("easyanimate", easyanimate, "flow", masked_texts, BIG | {"num_frames": 5}, images="", **TRANSFORMER),
)
