"""Sana, for images and for video."""

import tiny_parts as parts
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
)
from tiny_family import Family
from tiny_inputs import BIG, TRANSFORMER, UNBINNED, VIDEOS, masked_texts
from tiny_made import FLOW, textless


def sana() -> SanaPipeline:
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.5,
    )
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    )
    return textless(SanaPipeline, transformer, scheduler, vae)


def sana_video() -> SanaVideoPipeline:
    transformer = SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        sample_size=8,
        rope_max_seq_len=32,
    )
    return textless(SanaVideoPipeline, transformer, FLOW(), parts.wan_vae())


FAMILIES = (
    Family(
        "sana",
        sana,
        "flow",
        masked_texts,
        {"height": 32, "width": 32} | UNBINNED | {"negative_prompt": None},
        **TRANSFORMER,
    ),
    Family(
        "sana-video",
        sana_video,
        "flow",
        masked_texts,
        BIG | {"frames": 5, "negative_prompt": None} | UNBINNED,
        **VIDEOS,
        **TRANSFORMER,
    ),
)
