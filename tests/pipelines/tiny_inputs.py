"""What a call is given in place of prompts and pictures, and how pipelines say what they do not take."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from diffguide.guidance import ClassifierFreeGuidance

SMALL = {"height": 16, "width": 16}
BIG = {"height": 32, "width": 32}
VIDEOS = {"images": "num_videos_per_prompt"}
NO_PROMPT = {"without": ("prompt",)}
TRANSFORMER = {"denoisers": ("transformer",)}
UNBINNED = {"use_resolution_binning": False}


def states(rows: int, length: int, width: int, seed: int = 0) -> torch.Tensor:
    """(rows, length, width): text states, another for each seed."""
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(seed))


def texts(prompts: int, images: int, length: int = 4, width: int = 16) -> dict[str, Any]:
    """Text states in place of prompts."""
    return {
        "prompt": None,
        "prompt_embeds": states(prompts, length, width),
        "negative_prompt_embeds": states(prompts, length, width, 1),
    }


def gradient(size: int) -> Image.Image:
    return Image.linear_gradient("L").resize((size, size)).convert("RGB")


def pictures(prompts: int, images: int) -> dict[str, Any]:
    return {"image": picture(prompts)}


def plus_one(scale: float) -> ClassifierFreeGuidance:
    """For pipelines with cond + s (cond - uncond)."""
    return ClassifierFreeGuidance(scale + 1)


def masked_texts(prompts: int, images: int, length: int = 4, width: int = 16) -> dict[str, Any]:
    """Text states in place of prompts, with their masks; the last token of the negative one is padding."""
    mask = torch.ones(prompts, length)
    other = mask.clone()
    other[:, -1] = 0
    both = {"prompt_attention_mask": mask, "negative_prompt_attention_mask": other}
    return texts(prompts, images, length, width) | both


def frames(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (32, 32), (50 * i, 90, 30)) for i in range(count)]


def mask(size: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 4 : size // 2, :] = 1
    return mask


def image(size: int = 16) -> torch.Tensor:
    return nn.functional.interpolate(picture(1), size)


def control(**more: Any) -> dict[str, Any]:
    return {"control_image": picture(1)} | more


def picture(count: int, seed: int = 1) -> Tensor:
    """(count, 3, 16, 16) in [0, 1]."""
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
