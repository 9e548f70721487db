"""Low-rank updates (LoRA) merged into the weights they belong to, without a library for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def merge(module: nn.Module, path: Path) -> None:
    """Add B A to the weights of `module`, for each lora_A (rank, in, ...) and lora_B (out, rank, ...) in the file.

    The names are those in which diffusers saves LoRA, with alpha = rank. ValueError: one of them is not in `module`.
    """
    import torch
    from safetensors.torch import load_file

    state = load_file(path)
    weights = dict(module.named_parameters())
    with torch.no_grad():
        for key, down in state.items():
            if not key.endswith(".lora_A.weight"):
                continue
            name = key.removeprefix("unet.").replace(".lora_A.weight", ".weight")
            if name not in weights:
                raise ValueError(f"{path.name} has an update for {name!r}, which the model does not have")
            up = state[key.replace(".lora_A.", ".lora_B.")]
            update = up.flatten(1).float() @ down.flatten(1).float()
            weights[name].add_(update.view_as(weights[name]))
