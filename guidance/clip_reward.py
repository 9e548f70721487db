"""The cosine between image and prompt as a CLIP model sees them: CLIP (2103.00020), PickScore (2305.01569), and the
latent proxy reward model of RG-LCD (2403.11027), a CLIP model whose image tower takes latents.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import clip_files
from .preparation import CLIP_MEAN, CLIP_STD, Preparation
from .reward import SPACES, Reward
from .tensors import precise

if TYPE_CHECKING:
    from typing_extensions import Self

_CACHED = 4096


class ClipReward(Reward):
    """The cosine, in [-1, 1], of a CLIP model's two embeddings; differentiable with respect to the images.

    Embeddings of prompts are kept, the last 4096 of them. The cosine is computed in float32, or float64 for such a
    model; images are brought to the model's device and dtype, and the score back.

    Args:
        model: a `CLIPModel` of transformers, or what has its towers and projections. It is used as it is: neither
            moved, nor frozen, nor set to evaluation.
        tokenizer: its tokenizer; longer prompts are cut off.
        image_mean, image_std: of the normalisation, for images in [0, 1]; default: CLIP's own.
        image_size: side of the image tower's input; None: as the model says.
        crop: True (default, as CLIP): the shortest edge is resized and the middle cut out; False: the image is
            squeezed.
        space: "image", or "latent": x0 latents go to the image tower as they are, neither resized nor normalised.
        trainable: False (default): texts are embedded without gradient, once. True, for a proxy that is being trained:
            each time, with gradient.
        name: for messages and records.

    Raises:
        ValueError: another space.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        image_size: int | None = None,
        *,
        crop: bool = True,
        space: str = "image",
        trainable: bool = False,
        name: str = "clip",
    ):
        if space not in SPACES:
            raise ValueError(f"the space of a reward is one of {', '.join(SPACES)}, not {space!r}")
        self.model, self.tokenizer, self.space, self.trainable, self.name = model, tokenizer, space, trainable, name
        side = image_size or model.config.vision_config.image_size
        self.preparation = Preparation(
            side if crop else (side, side), side if crop else None, tuple(image_mean), tuple(image_std)
        )
        if space == "latent":
            self.preparation = Preparation()
        self._texts: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        processor: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        name: str | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> Self:
        """A model of transformers, frozen; or what `save_pretrained` wrote, which may be a latent reward.

        Args:
            source: a folder, or an id on the hub.
            processor: where tokenizer and preprocessor_config.json are; None: with the model.
            device, dtype: of the model.
            name: None: the last part of `source`.
            local_files_only: do not reach for the network.
            **options: of the constructor, in place of what preprocessor_config.json says; where there is no such file,
                CLIP's own normalisation and the model's size are taken.

        Raises:
            ValueError: it is not there, or is not a CLIP model.
        """
        model, tokenizer, config = clip_files.load(source, processor or source, dtype, local_files_only)
        name = name or Path(source).name
        reward = cls(model.to(device), tokenizer, **{"space": clip_files.space(config), "name": name} | options)
        if reward.space == "image" and config is not None:
            reward.preparation = _changed(Preparation.from_config(config), reward.preparation, options.keys())
            side, wanted = reward.preparation.side, model.config.vision_config.image_size
            if side not in (wanted, None):
                raise ValueError(f"{str(source)!r} prepares images of {side} pixels for a model that takes {wanted}")
        return reward

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model (safetensors), tokenizer and preparation to `folder`, as transformers does."""
        clip_files.save(folder, self.model, self.tokenizer, self.preparation.to_config(), self.space)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model."""
        return next(self.model.parameters()).dtype

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the model, as `torch.nn.Module.to`."""
        self.model.to(*args, **kwargs)
        return self

    def score(self, images: Tensor, prompts: Sequence[str] | None) -> Tensor:
        """The cosines (B,). ValueError: latents of another size than the model's."""
        assert prompts is not None
        return (self.embed_images(images) * self.embed_texts(prompts)).sum(1)

    def embed_images(self, images: Tensor) -> Tensor:
        """Images or latents, (B, C, H, W) -> (B, dim), of norm 1."""
        if self.space == "latent":
            vision = self.model.config.vision_config
            wanted = (len(images), vision.num_channels, vision.image_size, vision.image_size)
            if images.shape != wanted:
                raise ValueError(f"reward {self.name!r} takes latents {wanted}, not {tuple(images.shape)}")
        images = images.to(self.device)
        pixels = images if self.space == "latent" else self.preparation(images)
        return F.normalize(precise(self._image_features(pixels.to(self.device, self.dtype))), dim=1)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """B texts -> (B, dim), of norm 1."""
        if self.trainable:
            return self._embedded(prompts)
        new = [text for text in dict.fromkeys(prompts) if not self._holds(text)]
        if new:
            with torch.inference_mode(False), torch.no_grad():
                self._texts.update(zip(new, self._embedded(new)))
        found = torch.stack([self._texts[text] for text in prompts])
        for text in prompts:
            self._texts.move_to_end(text)
        while len(self._texts) > _CACHED:
            self._texts.popitem(last=False)
        return found

    def _holds(self, text: str) -> bool:
        kept = self._texts.get(text)
        return (
            kept is not None
            and kept.device == self.device
            and (kept.dtype == torch.float64) == (self.dtype == torch.float64)
        )

    def _embedded(self, prompts: Sequence[str]) -> Tensor:
        return F.normalize(precise(self._text_features(prompts)), dim=1)

    def _image_features(self, pixels: Tensor) -> Tensor:
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)

    def _text_features(self, prompts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt").to(self.device)
        return self.model.text_projection(self.model.text_model(**tokens).pooler_output)


def _changed(stated: Preparation, made: Preparation, given: Collection[str]) -> Preparation:
    """The preparation that a model states, but for the options given, which are as in another one."""
    stated = replace(stated, mean=made.mean) if "image_mean" in given else stated
    stated = replace(stated, std=made.std) if "image_std" in given else stated
    if "crop" in given:
        return replace(stated, size=made.size, crop=made.crop)
    if "image_size" in given:
        side = made.crop
        assert side is not None  # without `crop` it is made with a crop
        return replace(stated, size=(side, side)) if stated.crop is None else replace(stated, size=side, crop=side)
    return stated
