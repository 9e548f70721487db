"""Image networks of transformers: DINOv2, and CLIP with its text tower."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffguide.guidance import clip_files
from diffguide.guidance.preparation import Preparation
from diffguide.pipelines import embedded
from diffguide.pipelines.errors import UserError, one_line
from diffguide.pipelines.quiet import quiet, told_to_stay_offline

from .features import Extractor, hash_weights
from .resize import clean

DINOV2 = "facebook/dinov2-large"  # ViT-L/14, as EDM2 and dgm-eval
EMOJI_CLIP = "emoji-clip"
_DINO_SIDE = 224
# In [0, 255]: ImageNet's.
_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class _Dino(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).pooler_output  # the class token behind the last normalisation


class _Clip(nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.vision, self.projection = model.vision_model, model.visual_projection

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.vision(pixel_values=x).pooler_output)


class ClipExtractor(Extractor):
    """The image tower as an extractor, which squeezes images, as CMMD has it; beside it the text tower."""

    def __init__(self, model: Any, tokenizer: Any, **options: Any):
        super().__init__(network=_Clip(model), **options)
        self.tokenizer = tokenizer
        self._text = model.text_model.eval().requires_grad_(False).to(self.device, self.dtype)
        self._text_projection = model.text_projection.requires_grad_(False).to(self.device, self.dtype)

    def embed_middle(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> (N, dim) float32, of the middle square of each, as CLIP itself has it."""
        side = min(images.shape[2:])
        top, left = ((length - side) // 2 for length in images.shape[2:])
        return self(images[..., top : top + side, left : left + side])

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (N, dim) float32; what is longer than the model's positions is cut off."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self.device)
        return self._text_projection(self._text(**tokens).pooler_output).float()


def load_dinov2(
    weights: str | None = None, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Extractor:
    """The extractor of FD-DINOv2, 224 x 224. UserError: the model is not there, not whole, or another one."""
    name = weights or DINOV2
    model = _dinov2(name)
    return Extractor(
        f"dinov2:{_short(name)}",
        _Dino(model),
        dim=model.config.hidden_size,
        side=_DINO_SIDE,
        resize=("bicubic-antialias", clean),
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        weights_hash=hash_weights(model.state_dict()),
        device=device,
        dtype=dtype,
    )


def load_clip(
    weights: str | None = None, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ClipExtractor:
    """A CLIP model: an embedded one (default emoji-clip), a hub id, a folder.

    UserError: it is not there, not whole, or another, or its preprocessor_config.json is no CLIP image processor's.
    """
    name = weights or EMOJI_CLIP
    own = name in embedded.EMBEDDED and embedded.EMBEDDED[name].class_name == "CLIPModel"
    source, local = _place(str(embedded.MODELS / name) if own else name)
    try:
        with quiet(progress_bars=not local):
            model, tokenizer, config = clip_files.load(source, source, torch.float32, local or told_to_stay_offline())
        mean, std = _normalisation({} if config is None else config)
    except ValueError as error:
        raise UserError(f"cannot use {name!r}: {one_line(error)}") from error
    return ClipExtractor(
        model,
        tokenizer,
        name=f"clip:{_short(name)}",
        dim=model.config.projection_dim,
        side=model.config.vision_config.image_size,
        resize=("bicubic-antialias", clean),
        mean=mean,
        std=std,
        weights_hash=hash_weights(model.state_dict()),
        device=device,
        dtype=dtype,
    )


def _dinov2(name: str) -> Any:
    from transformers import Dinov2Model

    source, local = _place(name)
    options = {"dtype": torch.float32, "local_files_only": local or told_to_stay_offline()}
    try:
        with quiet(progress_bars=not local):
            model, report = Dinov2Model.from_pretrained(source, output_loading_info=True, **options)
        if report["missing_keys"]:  # another model, of which transformers makes one with random weights
            raise ValueError(f"it has no weights for {min(report['missing_keys'])}")
    except Exception as error:  # a missing or broken model makes the libraries raise nearly anything
        raise UserError(
            f"cannot load {name!r} as a Dinov2Model: give a hub id or a folder ({one_line(error, 160)})"
        ) from error
    return model


def _normalisation(config: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in [0, 255] of a preprocessor_config.json; what it leaves out is CLIP's own."""
    stated = Preparation.from_config(config)
    if stated.mean is None or stated.std is None:
        return (0.0,) * 3, (255.0,) * 3
    return tuple(255 * value for value in stated.mean), tuple(255 * value for value in stated.std)


def _place(source: str) -> tuple[str, bool]:
    """A folder or hub id as the libraries take it, and whether it is a folder."""
    folder = Path(source).expanduser()
    return (str(folder), True) if folder.is_dir() else (source, False)


def _short(name: str) -> str:
    """A hub id as it is, a folder by its name: the hash tells folders of one name apart."""
    where, local = _place(name)
    return Path(where).resolve().name if local else name
