"""More video pipelines of the families in `tiny`."""

from typing import Any

import pytest
import tiny_parts as parts
from diffusers import (
    WanImageToVideoPipeline,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from PIL import Image
from tiny import WAN, wan
from tiny_family import PROMPTS, Family
from tiny_inputs import TRANSFORMER, frames
from tiny_parts import awake
from tiny_variants import SHORT


def vace() -> WanVACETransformer3DModel:
    return awake(
        WanVACETransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
            rope_max_seq_len=32,
            vace_layers=[0],
            vace_in_channels=2 * 4 + 64,
        )
    )


def wan_image_to_video(in_channels: int = 12, **options: Any) -> WanImageToVideoPipeline:
    pytest.importorskip("ftfy")
    images = {"image_encoder": None, "image_processor": None}
    transformer = parts.wan_transformer(in_channels=in_channels)
    return wan(WanImageToVideoPipeline, transformer=transformer, **images, **options)


def wan_video_to_video() -> WanVideoToVideoPipeline:
    pytest.importorskip("ftfy")
    return wan(WanVideoToVideoPipeline)


VIDEO = WAN["fixed"]


WHITE = Image.new("L", (32, 32), 255)


VIDEO_VARIANTS = (
    Family(
        "wan-image-to-video",
        wan_image_to_video,
        "flow",
        **(WAN | {"fixed": VIDEO | {"image": frames(1)[0]}}),
        **TRANSFORMER,
    ),
    Family(
        "wan-video-to-video",
        wan_video_to_video,
        "flow",
        **(WAN | {"fixed": {**SHORT, "height": 32, "width": 32, "video": frames(5), "strength": 0.75}}),
        **TRANSFORMER,
    ),
    Family(
        "wan-vace",
        lambda: wan(WanVACEPipeline, transformer=vace()),
        "flow",
        **(WAN | {"fixed": VIDEO | {"prompt": PROMPTS[0], "video": frames(5), "mask": [WHITE] * 5}}),
        **TRANSFORMER,
    ),
)
