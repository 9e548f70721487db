"""UNets that make several frames at once."""

from typing import Any

import tiny_encoders as encoders
import tiny_parts as parts
from diffusers import (
    AnimateDiffPipeline,
    AnimateDiffVideoToVideoPipeline,
    EulerDiscreteScheduler,
    MotionAdapter,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from tiny import ddim, sd
from tiny_encoders import vision
from tiny_family import Family
from tiny_inputs import NO_PROMPT, SMALL, VIDEOS, gradient
from transformers import (
    CLIPImageProcessor,
)


def motion_adapter() -> MotionAdapter:
    adapter = MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=8, motion_num_attention_heads=2
    )
    for parameter in adapter.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.2)
    return adapter


def animatediff(cls: type = AnimateDiffPipeline) -> Any:
    modules = sd().components
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    return cls(**{name: modules[name] for name in names}, motion_adapter=motion_adapter())


def svd() -> StableVideoDiffusionPipeline:
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=16,
        num_attention_heads=2,
        projection_class_embeddings_input_dim=24,
        addition_time_embed_dim=8,
    )
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        steps_offset=1,
    )
    processor = CLIPImageProcessor()
    return StableVideoDiffusionPipeline(parts.kl_vae(), vision(), unet, scheduler, processor)


def text_to_video() -> TextToVideoSDPipeline:
    unet = UNet3DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    modules = {"vae": parts.kl_vae(), "text_encoder": encoders.clip_text(), "tokenizer": encoders.clip_tokenizer()}
    return TextToVideoSDPipeline(**modules, unet=unet, scheduler=ddim())


FAMILIES = (
    Family("animatediff", animatediff, "epsilon", fixed=SMALL | {"num_frames": 3}, **VIDEOS),
    Family(
        "animatediff-video-to-video",
        lambda: animatediff(AnimateDiffVideoToVideoPipeline),
        "epsilon",
        lambda prompts, images: {"video": [[gradient(16)] * 3] * prompts},
        {"strength": 0.75} | SMALL,
        **VIDEOS,
    ),
    Family(
        "svd",
        svd,
        "v_prediction",
        lambda prompts, images: {"image": [gradient(32)] * prompts},
        SMALL | {"num_frames": 3},
        scale="max_guidance_scale",
        **VIDEOS,
        **NO_PROMPT,
    ),
    Family("text-to-video-sd", text_to_video, "epsilon", fixed=SMALL | {"num_frames": 3}, images=""),
)
