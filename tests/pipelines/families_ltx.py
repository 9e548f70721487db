"""LTX-Video, from text, from a picture and from conditions."""

from typing import Any

from diffusers import (
    AutoencoderKLLTXVideo,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from tiny_family import Family
from tiny_inputs import BIG, TRANSFORMER, gradient, masked_texts
from tiny_made import FLOW, textless


def ltx(cls: type = LTXPipeline) -> Any:
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=16,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    return textless(cls, transformer, FLOW(), vae)


FAMILIES = (
    Family("ltx", ltx, "flow", masked_texts, BIG | {"num_frames": 9}, images="", **TRANSFORMER),
    Family(
        "ltx-image-to-video",
        lambda: ltx(LTXImageToVideoPipeline),
        "flow",
        lambda p, i: masked_texts(p, i) | {"image": gradient(32)},
        BIG | {"num_frames": 9},
        images="",
        **TRANSFORMER,
    ),
    Family(
        "ltx-condition",
        lambda: ltx(LTXConditionPipeline),
        "flow",
        lambda p, i: masked_texts(p, i) | {"image": gradient(32)},
        BIG | {"num_frames": 9},
        images="",
        **TRANSFORMER,
    ),
)
