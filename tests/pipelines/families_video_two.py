"""Video pipelines around the transformer of Wan that call it twice a step."""

from collections.abc import Callable
from typing import Any

import tiny_parts as parts
import torch
from diffusers import UniPCMultistepScheduler
from families_editing import PICTURE
from PIL import Image
from tiny_family import Family
from tiny_inputs import BIG, frames, picture
from tiny_made import GIVEN, embedded, model, noise, of
from torch import Tensor

# Its first frame is brought to the deviation of the others, which a plain picture has none of.
PHOTO = Image.fromarray((255 * picture(1)[0].permute(1, 2, 0)).to(torch.uint8).numpy()).resize((32, 32))
CLIP = {"num_frames": 5, **BIG}
VIDEOS = {"images": "num_videos_per_prompt", **GIVEN}
EMBEDS = {"inputs": embedded(prompt_embeds=(5, 16)), **VIDEOS}


def unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 16,
    "num_layers": 1,
    "rope_max_seq_len": 32,
}


def see(pipe: Any, image: Any, *_: Any, **__: Any) -> Tensor:
    return noise(1, 3, 4).to(pipe.transformer.dtype)


SEEING = {"encode_image": see}


def wan_like(name: str, transformer: str, **options: Any) -> Callable[[], Any]:
    return of(name, model(transformer, **WAN | options), SEEING, vae=parts.wan_vae, scheduler=unipc)


def animate() -> Any:
    options = {key: value for key, value in WAN.items() if key not in ("in_channels", "out_channels")}
    transformer = model(
        "WanAnimateTransformer3DModel",
        **options,
        in_channels=12,
        latent_channels=4,
        out_channels=4,
        image_dim=4,
        motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=16,
        face_encoder_hidden_dim=16,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=1,
    )
    return of("WanAnimatePipeline", transformer, SEEING, vae=parts.wan_vae, scheduler=unipc)()


VIDEO_TWO = (
    Family("skyreels2", wan_like("SkyReelsV2Pipeline", "SkyReelsV2Transformer3DModel"), "flow", fixed=CLIP, **EMBEDS),
    Family(
        "skyreels2-forcing",
        wan_like("SkyReelsV2DiffusionForcingPipeline", "SkyReelsV2Transformer3DModel"),
        "flow",
        fixed=CLIP,
        **EMBEDS,
    ),
    Family(
        "skyreels2-image-to-video",
        wan_like("SkyReelsV2ImageToVideoPipeline", "SkyReelsV2Transformer3DModel", in_channels=12, image_dim=4),
        "flow",
        fixed=CLIP | {"image": PICTURE},
        **EMBEDS,
    ),
    Family(
        "chronoedit",
        wan_like("ChronoEditPipeline", "ChronoEditTransformer3DModel", in_channels=12, image_dim=4),
        "flow",
        fixed=CLIP
        | {
            "image": PICTURE,
            "enable_temporal_reasoning": True,
            "num_temporal_reasoning_steps": 2,
            "num_frames": 9,
        },
        **EMBEDS,
    ),
    Family(
        "lucy",
        wan_like("LucyEditPipeline", "WanTransformer3DModel", in_channels=8),
        "flow",
        fixed=BIG | {"video": frames(5), "num_frames": 5},
        **EMBEDS | {"batch": (1, 1)},
    ),
    Family(
        "wan-animate",
        animate,
        "flow",
        fixed=BIG
        | {
            "image": PICTURE,
            "pose_video": frames(9),
            "face_video": frames(9),
            "segment_frame_length": 5,
        },
        output="pt",
        **EMBEDS,
    ),
)
