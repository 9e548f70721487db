"""Captioned images as latents and text states of the teacher, computed once: the embedded set `emoji`, or a folder."""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from diffguide.eval.references import load_reference
from diffguide.pipelines.quiet import quiet

VARIANT_WEIGHT = 0.12  # half of the emoji are skin-tone variants; as in ../train_emoji/data.py


@dataclass
class Captioned:
    """latents: (N, C, h, w), scaled as the denoiser wants them. states: (N, L, D), of the text; empty: (1, L, D), those
    of the empty prompt. prompts: the N captions. weights: (N,) how often each is drawn.
    """

    latents: Tensor
    states: Tensor
    empty: Tensor
    prompts: list[str]
    weights: Tensor

    def batch(self, size: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor, list[str]]:
        """`size` latents, their text states and their captions."""
        rows = torch.multinomial(self.weights, size, replacement=True, generator=generator)
        return self.latents[rows].to(device), self.states[rows].to(device), [self.prompts[row] for row in rows.tolist()]


@torch.no_grad()
def prepare(pipe, source: str, limit: int | None) -> Captioned:
    """Encode "emoji", or a folder with images and a metadata.jsonl of {"file_name", "text"} lines.

    SystemExit: the folder has no such file or no image in it, a line is none of these, or an image is missing.
    """
    images, prompts = _emoji(limit) if source == "emoji" else _folder(Path(source), limit)
    latents = torch.cat([encode(pipe, chunk.to(pipe.device)).cpu() for chunk in _batches(pipe, images)])
    with quiet(progress_bars=False):  # about captions that are cut off
        states = [pipe.encode_prompt(chunk, pipe.device, 1, False)[0].cpu() for chunk in _chunks(prompts, 128)]
        empty = pipe.encode_prompt([""], pipe.device, 1, False)[0].cpu()
    weights = torch.tensor([VARIANT_WEIGHT if source == "emoji" and "skin tone" in text else 1.0 for text in prompts])
    return Captioned(latents.float(), torch.cat(states).float(), empty.float(), prompts, weights)


def encode(pipe, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] to latents as the denoiser wants them."""
    encoded = pipe.vae.encode((images * 2 - 1).to(pipe.vae.dtype))
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    return latents * pipe.vae.config.scaling_factor


def decode(pipe, latents: Tensor) -> Tensor:
    """Latents to images (B, 3, H, W), clamped to [0, 1] as the authors of RG-LCD do; with gradients."""
    images = pipe.vae.decode((latents / pipe.vae.config.scaling_factor).to(pipe.vae.dtype), return_dict=False)[0]
    return (images / 2 + 0.5).clamp(0, 1)


def _emoji(limit: int | None) -> tuple[list[Tensor], list[str]]:
    listed = list(islice(load_reference("emoji").source, limit))
    return [image / 255 for _, image, _ in listed], [caption for *_, caption in listed]


def _folder(folder: Path, limit: int | None) -> tuple[list[Tensor], list[str]]:
    listing = folder / "metadata.jsonl"
    if not listing.is_file():
        raise SystemExit(f"{folder} has no metadata.jsonl: give a folder with one line of file_name and text per image")
    images, prompts = [], []
    for line in [line for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()][:limit]:
        try:
            entry = json.loads(line)
            prompts.append(str(entry["text"]))
            images.append(pil_to_tensor(Image.open(folder / entry["file_name"]).convert("RGB")) / 255)
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{listing}: {line!r} is no line with a file_name and a text") from error
        except OSError as error:
            raise SystemExit(f"{listing}: {line!r}: the image cannot be read: {error}") from error
    if not images:
        raise SystemExit(f"{listing} names no image")
    return images, prompts


def _batches(pipe, images: list[Tensor]):
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    for chunk in _chunks(images, 64):
        resized = [F.interpolate(_square(image)[None], (side, side), mode="bicubic", antialias=True) for image in chunk]
        yield torch.cat(resized).clamp(0, 1)


def _square(image: Tensor) -> Tensor:
    side = min(image.shape[-2:])
    top, left = (image.shape[-2] - side) // 2, (image.shape[-1] - side) // 2
    return image[:, top : top + side, left : left + side]


def _chunks(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]
