"""HunyuanVideo and Kandinsky 5, which call their denoiser twice a step."""

from collections.abc import Callable
from typing import Any

import diffusers
import tiny_parts as parts
import torch
from families_editing import PICTURE
from families_video_two import CLIP, PHOTO, SEEING, VIDEOS
from tiny_family import Family
from tiny_inputs import BIG
from tiny_made import embedded, model, of, still
from tiny_parts import awake

HUNYUAN = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "text_embed_dim": 16,
    "pooled_projection_dim": 8,
    "rope_axes_dim": (4, 4, 8),
}


def hunyuan_vae() -> Any:
    vae = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
    )
    vae.encoder.conv_out.conv.bias.data[4:] = -100  # no variance: some pipelines sample it without a generator
    return vae


def hunyuan(name: str, kind: str = "HunyuanVideoTransformer3DModel", **options: Any) -> Callable[[], Any]:
    return of(name, model(kind, **HUNYUAN | options), SEEING, vae=hunyuan_vae, scheduler=still)


HUNYUAN_TEXT = {
    "inputs": embedded(torch.float32, prompt_embeds=(5, 16), pooled_prompt_embeds=(8,), prompt_attention_mask=(5,)),
    "scale": "true_cfg_scale",
    **VIDEOS,
}


def kandinsky5(name: str, **options: Any) -> Callable[[], Any]:
    transformer = model(
        "Kandinsky5Transformer3DModel",
        **{
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
        }
        | options,
    )

    def make() -> Any:
        pipe = of(name, lambda: awake(transformer()), vae=vae, scheduler=still)()
        pipe.resolutions = [(32, 32)]  # those that are for pictures know only large ones
        return pipe

    vae = parts.kl_vae if name.endswith(("T2IPipeline", "I2IPipeline")) else hunyuan_vae
    return make


def kandinsky_text(prompts: int, images: int) -> dict[str, Any]:
    given = embedded(prompt_embeds_qwen=(5, 16), prompt_embeds_clip=(8,))(prompts, images)
    lengths = torch.arange(prompts + 1, dtype=torch.int32) * 5
    return given | {"prompt_cu_seqlens": lengths, "negative_prompt_cu_seqlens": lengths}


KANDINSKY = {"inputs": kandinsky_text, **VIDEOS}

HUNYUAN_VIDEO = (
    Family("hunyuan-video", hunyuan("HunyuanVideoPipeline"), "flow", fixed=CLIP, **HUNYUAN_TEXT),
    Family(
        "hunyuan-image-to-video",
        hunyuan("HunyuanVideoImageToVideoPipeline", image_condition_type="token_replace", guidance_embeds=True),
        "flow",
        fixed=CLIP | {"image": PICTURE},
        **HUNYUAN_TEXT | {"batch": (1, 1)},
    ),
    Family(
        "hunyuan-image-to-video-concat",
        hunyuan(
            "HunyuanVideoImageToVideoPipeline",
            image_condition_type="latent_concat",
            guidance_embeds=False,
            in_channels=9,
        ),
        "flow",
        fixed=CLIP | {"image": PICTURE},
        **HUNYUAN_TEXT | {"batch": (1, 1)},
    ),
    Family(
        "hunyuan-skyreels",
        hunyuan("HunyuanSkyreelsImageToVideoPipeline", in_channels=8),
        "flow",
        fixed=CLIP | {"image": PICTURE},
        **HUNYUAN_TEXT | {"batch": (1, 1)},
    ),
    Family(
        "framepack",
        hunyuan(
            "HunyuanVideoFramepackPipeline",
            "HunyuanVideoFramepackTransformer3DModel",
            has_image_proj=True,
            image_proj_dim=4,
            has_clean_x_embedder=True,
        ),
        "flow",
        fixed=BIG | {"image": PICTURE, "num_frames": 10, "latent_window_size": 3},
        output="pt",
        **HUNYUAN_TEXT | {"batch": (1, 1)},
    ),
    Family("kandinsky5", kandinsky5("Kandinsky5T2VPipeline"), "flow", fixed=CLIP, **KANDINSKY),
    Family(
        "kandinsky5-image-to-video",
        kandinsky5("Kandinsky5I2VPipeline", visual_cond=True),
        "flow",
        fixed=CLIP | {"image": PHOTO, "num_frames": 21},
        **KANDINSKY,
    ),
    Family(
        "kandinsky5-image",
        kandinsky5("Kandinsky5T2IPipeline"),
        "flow",
        fixed=BIG,
        **KANDINSKY | {"images": "num_images_per_prompt"},
    ),
)
