"""Image networks of transformers: DINOv2, and CLIP with its text tower."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffguide.pipelines import embedded
from diffguide.pipelines.errors import UserError, one_line
from diffguide.pipelines.quiet import quiet

from .features import Extractor, hash_weights

DINOV2 = "facebook/dinov2-large"  # ViT-L/14, as EDM2 and dgm-eval
EMOJI_CLIP = "emoji-clip"
_DINO_SIDE = 224
# In [0, 255]. ImageNet's for DINOv2; CLIP's own; what the embedded ones were trained with.
_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_CLIP = (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)
_EMOJI = (127.5,) * 3, (127.5,) * 3


def _bicubic(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, (side, side), mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)


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
    """The extractor of FD-DINOv2, 224 x 224. UserError: the model is not there or is another one."""
    from transformers import Dinov2Model

    name = weights or DINOV2
    model = _load(Dinov2Model, name)
    return Extractor(
        f"dinov2:{_short(name)}",
        _Dino(model),
        dim=model.config.hidden_size,
        side=_DINO_SIDE,
        resize=("bicubic-antialias", _bicubic),
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        weights_hash=hash_weights(model.state_dict()),
        device=device,
        dtype=dtype,
    )


def load_clip(
    weights: str | None = None, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ClipExtractor:
    """A CLIP model: an embedded one (default emoji-clip), a hub id, a folder. UserError: not there, or another."""
    from transformers import CLIPModel, CLIPTokenizer

    name = weights or EMOJI_CLIP
    own = name in embedded.EMBEDDED and embedded.EMBEDDED[name].class_name == "CLIPModel"
    source = str(embedded.MODELS / name) if own else name
    model, tokenizer = _load(CLIPModel, source, name), _load(CLIPTokenizer, source, name)
    mean, std = _EMOJI if own else _normalisation(source)
    return ClipExtractor(
        model,
        tokenizer,
        name=f"clip:{_short(name)}",
        dim=model.config.projection_dim,
        side=model.config.vision_config.image_size,
        resize=("bicubic-antialias", _bicubic),
        mean=mean,
        std=std,
        weights_hash=hash_weights(model.state_dict()),
        device=device,
        dtype=dtype,
    )


def _load(cls: Any, source: str, name: str | None = None) -> Any:
    local = Path(source).expanduser().is_dir()
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    options = {"dtype": torch.float32} if issubclass(cls, nn.Module) else {}
    try:
        with quiet(progress_bars=not local):
            path = str(Path(source).expanduser()) if local else source
            return cls.from_pretrained(path, local_files_only=local or offline, **options)
    except Exception as error:  # a missing or broken model makes the libraries raise nearly anything
        raise UserError(
            f"cannot load {name or source!r} as a {cls.__name__}: give a hub id or a folder ({one_line(error, 160)})"
        ) from error


def _normalisation(source: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in [0, 255] of a model's preprocessor_config.json, CLIP's own where it has none."""
    from transformers.utils import cached_file

    try:
        path = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
        config = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        mean, std = (tuple(255 * float(value) for value in config[key]) for key in ("image_mean", "image_std"))
    except (OSError, ValueError, KeyError, TypeError):
        return _CLIP
    return mean, std


def _short(name: str) -> str:
    """A hub id as it is, a folder by its name: the hash tells folders of one name apart."""
    return Path(name).expanduser().resolve().name if Path(name).expanduser().is_dir() else name
