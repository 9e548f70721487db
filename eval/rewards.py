"""Rewards that can be named on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import cosine_similarity

from diffguide.pipelines.errors import UserError


class ClipReward:
    """The cosine between image and prompt as a CLIP model sees them: (N, 3, H, W) in [0, 1], N texts -> (N,).

    Args:
        clip: a `towers.ClipExtractor`.
    """

    def __init__(self, clip: Any):
        self.clip = clip

    def __call__(self, images: Tensor, prompts: Sequence[str] | None) -> Tensor:
        """UserError: there are no prompts."""
        if prompts is None or len(prompts) < len(images):
            raise UserError("this reward needs prompts: --prompts FILE, or texts beside the images")
        return cosine_similarity(self.clip(images), self.clip.embed_text(prompts))
