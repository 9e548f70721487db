"""Kandinsky 2.2 and 3: image embeddings in place of text, in several pipelines."""

from typing import Any

import tiny_encoders as encoders
import tiny_parts as parts
import torch
from diffusers import (
    DDPMScheduler,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KandinskyV22ControlnetPipeline,
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    UnCLIPScheduler,
    VQModel,
)
from families_other import PRIOR
from tiny import ddim
from tiny_encoders import vision
from tiny_family import Family
from tiny_inputs import NO_PROMPT, SMALL, gradient, picture, plus_one, states
from tiny_parts import awake
from transformers import (
    CLIPImageProcessor,
)


def movq() -> VQModel:
    return VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=32,
        norm_type="spatial",
        num_vq_embeddings=8,
        vq_embed_dim=4,
    )


def kandinsky22(cls: type = KandinskyV22Pipeline, in_channels: int = 4, hint: bool = False) -> Any:
    unet = parts.unet(
        in_channels=in_channels,
        out_channels=8,
        addition_embed_type="image_hint" if hint else "image",
        encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj",
        resnet_time_scale_shift="scale_shift",
        class_embed_type=None,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    )
    return cls(unet=unet, scheduler=DDPMScheduler(beta_schedule="linear"), movq=movq())


def images22(prompts: int, images: int) -> dict[str, Any]:
    return {
        "image_embeds": states(prompts, 1, 16)[:, 0],
        "negative_image_embeds": states(prompts, 1, 16, 1)[:, 0],
    }


def kandinsky3() -> Kandinsky3Pipeline:
    unet = Kandinsky3UNet(
        time_embedding_dim=4,
        groups=4,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=16,
    )
    return Kandinsky3Pipeline(encoders.t5_tokenizer(), encoders.t5(), unet, ddim(), movq())


V22 = NO_PROMPT | {"inputs": images22}


def kandinsky22_prior() -> KandinskyV22PriorPipeline:
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=16, num_layers=1, num_embeddings=16
    )
    scheduler = UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=5.0
    )
    return KandinskyV22PriorPipeline(
        prior=awake(prior),
        image_encoder=vision(),
        text_encoder=encoders.clip_text(projection=True),
        tokenizer=encoders.clip_tokenizer(),
        scheduler=scheduler,
        image_processor=CLIPImageProcessor(),
    )


FAMILIES = (
    Family("kandinsky22", kandinsky22, "epsilon", fixed=SMALL, **V22),
    Family(
        "kandinsky22-img2img",
        lambda: kandinsky22(KandinskyV22Img2ImgPipeline),
        "epsilon",
        lambda p, i: images22(p, i) | {"image": gradient(16)},
        SMALL | {"strength": 0.75},
        images="",
        without=("prompt",),
    ),
    Family(
        "kandinsky22-inpaint",
        lambda: kandinsky22(KandinskyV22InpaintPipeline, in_channels=9),
        "epsilon",
        lambda p, i: images22(p, i) | {"image": picture(p), "mask_image": torch.eye(16).repeat(p, 1, 1, 1)},
        SMALL,
        images="",
        without=("prompt",),
    ),
    Family(
        "kandinsky22-controlnet",
        lambda: kandinsky22(KandinskyV22ControlnetPipeline, 8, hint=True),
        "epsilon",
        lambda p, i: images22(p, i) | {"hint": states(p, 3 * 64, 64).view(p, 3, 64, 64)},
        SMALL,
        images="",
        output="pt",
        without=("prompt",),
    ),
    Family("kandinsky3", kandinsky3, "epsilon", fixed=SMALL, native=plus_one),
    Family("kandinsky22-prior", kandinsky22_prior, "sample", output="pt", **PRIOR),
)
