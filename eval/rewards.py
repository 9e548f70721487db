"""Rewards that can be named on the command line, as metrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffguide.pipelines.errors import UserError
from diffguide.pipelines.rewards import load_reward

from .features import hash_weights


class NamedReward:
    """A reward of `load_reward`, with what a record of its numbers says of it: see `features.FeatureExtractor`.

    Args:
        name: of the reward. device, dtype: see `load_reward`.

    Raises:
        UserError: as `load_reward`, or a reward that looks at latents.
    """

    dim = 1

    def __init__(self, name: str, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None):
        self.reward = load_reward(name, device=device, dtype=dtype)
        if self.reward.space != "image":
            raise UserError(f"reward {name!r} looks at latents, not at images")
        model = getattr(self.reward, "model", None)
        self.name = f"reward:{self.reward.name}"
        self.weights_hash = hash_weights(model.state_dict()) if isinstance(model, torch.nn.Module) else ""
        self.resize = "bicubic-antialias" if hasattr(self.reward, "preparation") else ""

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: Sequence[str] | None) -> Tensor:
        """(N, 3, H, W) in [0, 1] and N texts, or None -> (N,). UserError: there are no prompts, but must be."""
        if not prompts and self.reward.needs_prompts:
            raise UserError("this reward needs prompts: --prompts FILE, or texts beside the images")
        try:
            return self.reward(images, prompts)
        except ValueError as error:
            raise UserError(str(error)) from error
