"""Rewards of other libraries: HPSv2.1, ImageReward and the aesthetic predictor, from their weights."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffguide.guidance import ClipReward, Reward
from diffguide.guidance.preparation import CLIP_MEAN, CLIP_STD, Preparation
from diffguide.guidance.tensors import precise

from .errors import UserError, one_line
from .rewards import REWARDS

if TYPE_CHECKING:
    from typing_extensions import Self

_CLIP_224 = Preparation(224, 224, CLIP_MEAN, CLIP_STD)


class HpsReward(ClipReward):
    """The cosine of an open_clip model; images that are not square are padded with black, as HPSv2's own code does.

    Args:
        model: `open_clip.CLIP`.
        tokenizer: texts -> (B, length) tokens.
    """

    def __init__(self, model: Any, tokenizer: Any):
        size = model.visual.image_size
        super().__init__(model, tokenizer, image_size=size if isinstance(size, int) else size[0], name="hpsv2")

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, dim), of norm 1."""
        side, longest = self.preparation.side, max(images.shape[2:])
        assert side is not None
        height, width = (round(edge * side / longest) for edge in images.shape[2:])
        left, top = (side - width) // 2, (side - height) // 2
        x = Preparation(size=(height, width))(images.to(self.device))
        return super().embed_images(F.pad(x, (left, side - width - left, top, side - height - top)))

    def _image_features(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)

    def _text_features(self, prompts: Sequence[str]) -> Tensor:
        return self.model.encode_text(self.tokenizer(list(prompts)).to(self.device))


class AestheticReward(Reward):
    """A head on the image embedding of CLIP; it looks at no prompt.

    Args:
        model: a predictor of `aesthetics_predictor`. Its parts are called one by one: its own `forward` divides the
            embedding in place, through which torch cannot differentiate.
    """

    needs_prompts = False
    name = "aesthetic"

    def __init__(self, model: Any):
        self.model = model
        self.head = model.predictor if hasattr(model, "predictor") else model.layers
        side = model.config.image_size
        self.preparation = Preparation(side, side, CLIP_MEAN, CLIP_STD)

    def score(self, images: Tensor, prompts: Sequence[str] | None) -> Tensor:
        """The rating (B,), about 1 to 10."""
        weight = next(self.model.parameters())
        pixels = self.preparation(images.to(weight.device)).to(weight)
        features = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        return precise(self.head(F.normalize(features, dim=1))).squeeze(1)


class ImageReward(Reward):
    """ImageReward: BLIP looks at the image while it reads the prompt.

    Args:
        model: what `ImageReward.load` gives.
    """

    name = "imagereward"

    def __init__(self, model: Any):
        self.model = model

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the model, which notes its device by itself."""
        super().to(*args, **kwargs)
        self.model.device = next(self.model.parameters()).device
        return self

    def score(self, images: Tensor, prompts: Sequence[str] | None) -> Tensor:
        """The reward (B,), of mean 0 and deviation 1 on the authors' data."""
        assert prompts is not None
        weight = next(self.model.parameters())
        tokens = self.model.blip.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=35, return_tensors="pt"
        ).to(weight.device)
        pixels = _CLIP_224(images.to(weight.device)).to(weight)
        return precise(self.model.score_gard(tokens.input_ids, tokens.attention_mask, pixels)).squeeze(1)


def load_hpsv2(source: str, device: torch.device, dtype: torch.dtype) -> Reward:
    """HPSv2.1 from its checkpoint, by open_clip, of which HPSv2's code is a copy. UserError as `load_reward`."""
    open_clip = _library("hpsv2", "open_clip")
    path = source or _hub_file("hpsv2", "xswu/HPSv2", "HPS_v2.1_compressed.pt")
    try:
        state = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)["state_dict"]
        model = open_clip.create_model("ViT-H-14")
        model.load_state_dict(state)
    except Exception as error:  # a broken checkpoint makes torch raise nearly anything
        raise UserError(f"cannot load {path!r} as the checkpoint of HPSv2.1 ({one_line(error, 160)})") from error
    return HpsReward(_frozen(model, device, dtype), open_clip.get_tokenizer("ViT-H-14"))


def load_aesthetic(source: str, device: torch.device, dtype: torch.dtype) -> Reward:
    """A predictor in the form of simple-aesthetics-predictor. UserError as `load_reward`."""
    library = _library("aesthetic", "aesthetics_predictor")
    source = source or REWARDS["aesthetic"].weights.partition(",")[0]
    folder = Path(source).expanduser()
    path = folder / "config.json" if folder.is_dir() else _hub_file("aesthetic", source, "config.json")
    try:
        [architecture] = json.loads(Path(path).read_text(encoding="utf-8"))["architectures"]
        name = str(folder) if folder.is_dir() else source
        model, report = getattr(library, architecture).from_pretrained(name, dtype=dtype, output_loading_info=True)
        if report["missing_keys"]:
            raise ValueError(f"it has no weights for {min(report['missing_keys'])}")
    except Exception as error:  # a missing or broken model makes the libraries raise nearly anything
        raise UserError(f"cannot load {source!r} as an aesthetic predictor ({one_line(error, 160)})") from error
    return AestheticReward(_frozen(model, device, dtype))


def load_imagereward(source: str, device: torch.device, dtype: torch.dtype) -> Reward:
    """ImageReward v1.0 from the hub, or from a folder with its two files. UserError as `load_reward`."""
    library = _library("imagereward", "ImageReward")
    folder = Path(source).expanduser()
    files = (str(folder / "ImageReward.pt"), str(folder / "med_config.json")) if source else ("ImageReward-v1.0", None)
    missing = next((path for path in files if source and path and not os.path.isfile(path)), None)
    if missing:
        raise UserError(f"there is no file {missing!r}: imagereward:FOLDER needs ImageReward.pt and med_config.json")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints where it loads from
            model = library.load(files[0], device="cpu", med_config=files[1])
    except Exception as error:  # a missing or broken model makes the library raise nearly anything
        raise UserError(f"cannot load ImageReward ({one_line(error, 160)}): give imagereward:FOLDER") from error
    model.device = device
    return ImageReward(_frozen(model, device, dtype))


def _frozen(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    return model.eval().requires_grad_(False).to(device, dtype)


def _library(reward: str, module: str) -> Any:
    try:
        return import_module(module)
    except Exception as error:  # a library whose own needs are not met raises nearly anything
        package = REWARDS[reward].install
        raise UserError(f"reward {reward!r} needs a library: pip install {package} ({one_line(error, 160)})") from error


def _hub_file(reward: str, repository: str, file: str) -> str:
    from huggingface_hub import hf_hub_download

    try:
        return hf_hub_download(repository, file)
    except Exception as error:  # each version of the hub's client has its own for a file that is not there
        raise UserError(
            f"cannot get {file} of {repository}: give what you have as {reward}:PATH ({one_line(error, 160)})"
        ) from error
