"""Tiny random pipelines with a place for a guider: Modular ones made of classic ones, and classic ones that have it."""

from typing import Any

import diffusers
import pytest
import tiny_parts as parts
import torch
from diffusers import ClassifierFreeGuidance, FlowMatchEulerDiscreteScheduler
from tiny_family import PROMPTS, seeded
from torch import Tensor

ATTENTION = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "text_embed_dim": 16}


def known(module: Any, name: str) -> Any:
    """A class of diffusers; the test is skipped where this version has none."""
    if not hasattr(module, name):
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    return getattr(module, name)


def modular(blocks: str, pipe: Any) -> Any:
    """A Modular pipeline with the components of a classic one."""
    made = known(diffusers.modular_pipelines, blocks)().init_pipeline()
    made.update_components(**{name: pipe.components[name] for name in made._component_specs if name in pipe.components})
    made.set_progress_bar_config(disable=True)
    return made


def run_modular(pipe: Any, output: str = "images", **changes: Any) -> Tensor:
    options = {"prompt": PROMPTS[0], "num_inference_steps": 4, "output_type": "latent", "height": 16, "width": 16}
    return pipe(generator=torch.Generator().manual_seed(0), output=output, **(options | changes))


def embeddings(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Random embeddings for both prompts under their names in `__call__`; masks of ones."""
    generator, made = torch.Generator().manual_seed(1), {}
    for negative in ("", "negative_"):
        for name, shape in shapes.items():
            ones = torch.ones(shape, dtype=torch.long)
            made[negative + name] = ones if "mask" in name else torch.randn(shape, generator=generator)
    return made


def hunyuan_image(**changes: Any) -> Any:
    cls = known(diffusers, "HunyuanImagePipeline")
    transformer = diffusers.HunyuanImageTransformer2DModel(
        **ATTENTION, in_channels=4, out_channels=4, num_single_layers=1, text_embed_2_dim=16, rope_axes_dim=(8, 8)
    )
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=16,
        scaling_factor=0.7,
    )
    modules = {"transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}
    empty = dict.fromkeys(["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"])
    return cls(**(modules | empty | {"guider": ClassifierFreeGuidance(5.0)} | changes))


def hunyuan_video() -> Any:
    cls = known(diffusers, "HunyuanVideo15Pipeline")
    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        **ATTENTION,
        in_channels=9,
        out_channels=4,
        num_refiner_layers=1,
        text_embed_2_dim=16,
        image_embed_dim=16,
        rope_axes_dim=(4, 6, 6),
        target_size=16,
        task_type="t2v",
    )
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )
    modules = {"transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}
    empty = dict.fromkeys(["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"])
    return cls(**modules, **empty, guider=ClassifierFreeGuidance(5.0))


def motif_video() -> Any:
    cls = known(diffusers, "MotifVideoPipeline")
    transformer = diffusers.MotifVideoTransformer3DModel(
        **ATTENTION,
        in_channels=9,
        out_channels=4,
        num_single_layers=1,
        num_decoder_layers=1,
        rope_axes_dim=(4, 6, 6),
    )
    modules = {"transformer": transformer, "vae": parts.wan_vae(), "scheduler": FlowMatchEulerDiscreteScheduler()}
    return cls(**modules, text_encoder=None, tokenizer=None, guider=ClassifierFreeGuidance(5.0))


SLOTS = {
    "hunyuan-image": (
        hunyuan_image,
        embeddings(
            prompt_embeds=(1, 6, 16), prompt_embeds_mask=(1, 6), prompt_embeds_2=(1, 4, 16), prompt_embeds_mask_2=(1, 4)
        )
        | {"height": 16, "width": 16},
    ),
    "hunyuan-video-15": (
        hunyuan_video,
        embeddings(
            prompt_embeds=(1, 6, 16), prompt_embeds_mask=(1, 6), prompt_embeds_2=(1, 4, 16), prompt_embeds_mask_2=(1, 4)
        )
        | {"height": 16, "width": 16, "num_frames": 5},
    ),
    "motif-video": (
        motif_video,
        embeddings(prompt_embeds=(1, 6, 16), prompt_attention_mask=(1, 6))
        | {"height": 32, "width": 32, "num_frames": 5},
    ),
}


def build(name: str) -> Any:
    return seeded(SLOTS[name][0])


def run(name: str, pipe: Any) -> Tensor:
    options = {"num_inference_steps": 4, "output_type": "latent", "generator": torch.Generator().manual_seed(0)}
    return pipe(**options, **SLOTS[name][1])[0]
