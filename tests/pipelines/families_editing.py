"""Editing pipelines of Flux and Qwen-Image, which append reference images to the latents."""

import importlib
from collections.abc import Callable
from typing import Any

import diffusers
import tiny_parts as parts
from PIL import Image
from tiny import FLUX, QWEN, flux, qwen
from tiny_family import Family
from tiny_inputs import BIG, image, mask
from tiny_made import GIVEN, embedded, model, of
from tiny_parts import awake

HALF = Image.new("L", (32, 32))
HALF.paste(255, (0, 0, 32, 16))
PICTURE = Image.new("RGB", (32, 32), (200, 90, 30))


def small_reference(module: str) -> None:
    """Pictures stay as small as they are; the pipeline would blow each up to a megapixel."""

    def dimensions(area: int, ratio: float) -> tuple[int, ...]:
        return (32, 32, None) if count == 3 else (32, 32)

    home = importlib.import_module(f"diffusers.pipelines.{module}")
    count = len(home.calculate_dimensions(1024, 1.0))
    home.calculate_dimensions = dimensions


def qwen_edit(name: str, **changes: Any) -> Callable[[], Any]:
    modules = {
        "QwenImageEditPipeline": "pipeline_qwenimage_edit",
        "QwenImageEditPlusPipeline": "pipeline_qwenimage_edit_plus",
        "QwenImageEditInpaintPipeline": "pipeline_qwenimage_edit_inpaint",
        "QwenImageLayeredPipeline": "pipeline_qwenimage_layered",
    }

    def make() -> Any:
        small_reference(f"qwenimage.{modules[name]}")
        return qwen(getattr(diffusers, name), processor=None, **{k: v() for k, v in changes.items()})

    return make


def changed(module: Any, **changes: Any) -> Any:
    return type(module)(**dict(module.config) | changes)


def layered_transformer() -> Any:
    return changed(parts.qwen_transformer(), in_channels=32, out_channels=8, use_additional_t_cond=True)


def rgba_vae() -> Any:
    """With more channels than a picture, which would be taken for latents."""
    return changed(parts.qwen_vae(), input_channels=4, z_dim=8, latents_mean=[0.0] * 8, latents_std=[1.0] * 8)


def kontext(name: str) -> Callable[[], Any]:
    return lambda: flux(getattr(diffusers, name))


def klein(name: str) -> Callable[[], Any]:
    transformer = model(
        "Flux2Transformer2DModel",
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = model(
        "AutoencoderKLFlux2",
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    return of(name, lambda: loud(transformer(), "context_embedder", "proj_out"), vae=vae)


def loud(module: Any, *names: str) -> Any:
    """A denoiser that hears its text, and is heard: at random it would hardly."""
    for name in names:
        getattr(module, name).weight.data.mul_(10)
    return module


def inpainting_controlnet() -> Any:
    options = parts.qwen_transformer().config
    return awake(diffusers.QwenImageControlNetModel.from_config(options, extra_condition_channels=4))


def qwen_controlnet_inpaint() -> Any:
    transformer = loud(parts.qwen_transformer(), "txt_in", "proj_out")
    return qwen(
        diffusers.QwenImageControlNetInpaintPipeline, transformer=transformer, controlnet=inpainting_controlnet()
    )


QWEN_EDIT = QWEN | {
    "inputs": embedded(prompt_embeds=(5, 16), prompt_embeds_mask=(5,)),
    "negative": None,
    "batch": (2, 1),
}
EDITS = {"image": image(32), "mask_image": mask(32), "height": 32, "width": 32, "strength": 0.75}
KLEIN = {"inputs": embedded(prompt_embeds=(5, 16)), **GIVEN}

EDITING = (
    Family(
        "flux-kontext",
        kontext("FluxKontextPipeline"),
        "flow",
        fixed={"image": image(32), **BIG, "max_sequence_length": 16, "max_area": 32 * 32, "_auto_resize": False},
        **FLUX,
    ),
    Family(
        "flux-kontext-inpaint",
        kontext("FluxKontextInpaintPipeline"),
        "flow",
        fixed=EDITS | {"max_sequence_length": 16, "max_area": 32 * 32, "_auto_resize": False},
        **FLUX,
    ),
    Family(
        "flux2-klein", klein("Flux2KleinPipeline"), "flow", fixed={"image": PICTURE.resize((64, 64)), **BIG}, **KLEIN
    ),
    Family("flux2-klein-inpaint", klein("Flux2KleinInpaintPipeline"), "flow", fixed=EDITS, **KLEIN),
    Family("qwen-edit", qwen_edit("QwenImageEditPipeline"), "flow", fixed={"image": PICTURE, **BIG}, **QWEN_EDIT),
    Family(
        "qwen-edit-plus",
        qwen_edit("QwenImageEditPlusPipeline"),
        "flow",
        fixed={"image": [PICTURE, PICTURE], **BIG},
        **QWEN_EDIT | {"batch": (1, 1)},
    ),
    Family(
        "qwen-edit-inpaint",
        qwen_edit("QwenImageEditInpaintPipeline"),
        "flow",
        fixed=EDITS | {"image": PICTURE, "mask_image": HALF},
        **QWEN_EDIT,
    ),
    Family(
        "qwen-layered",
        qwen_edit("QwenImageLayeredPipeline", transformer=layered_transformer, vae=rgba_vae),
        "flow",
        fixed={"image": PICTURE.convert("RGBA"), "layers": 2},
        output="pt",
        **FLUX | {"negative": " ", "batch": (1, 1)},
    ),
    Family(
        "qwen-controlnet-inpaint",
        qwen_controlnet_inpaint,
        "flow",
        fixed={**BIG, "control_image": image(32), "control_mask": mask(32)},
        **QWEN,
    ),
)
