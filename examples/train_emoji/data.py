"""The emoji images and their captions, from the npm package `emoji-datasource-google` (Noto Emoji, Apache-2.0).

npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz   # makes ./package
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

SKIN_TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}
VARIANT_WEIGHT = 0.12  # half of the images are skin-tone variants; uniformly drawn they crowd out every object


@dataclass
class Emoji:
    """All images with their captions, in the order of `emoji.json`, each variant after its base image.

    images: (N, 3, 64, 64) uint8, drawn on white. names: the caption of each image. aliases: what people also type
    for it. variant: (N,) bool, a skin-tone variant. weights: (N,) how often each image should be drawn.
    """

    images: torch.Tensor
    names: list[str]
    aliases: list[list[str]]
    variant: torch.Tensor
    weights: torch.Tensor

    def caption(self, index: int, generator: torch.Generator, alias_rate: float) -> str:
        """The name of one image or, at `alias_rate`, one of its aliases."""
        others = self.aliases[index]
        if others and torch.rand((), generator=generator) < alias_rate:
            return others[int(torch.randint(len(others), (), generator=generator))]
        return self.names[index]


def load_emoji(package: Path) -> Emoji:
    """Read the unpacked npm package at `package`."""
    entries = [e for e in json.loads((package / "emoji.json").read_text()) if e["has_img_google"]]
    names = [entry["name"].lower() for entry in entries]
    shorts = [{_plain(short) for short in entry["short_names"]} - {name} for entry, name in zip(entries, names)]
    uses: dict[str, int] = {}
    for text in [*names, *(short for group in shorts for short in group)]:
        uses[text] = uses.get(text, 0) + 1

    files, captions, aliases, variant = [], [], [], []
    for entry, name, group in zip(entries, names, shorts):
        unique = sorted(short for short in group if uses[short] == 1)
        files.append(entry["image"])
        captions.append(name)
        aliases.append(unique)
        variant.append(False)
        for tones, other in entry.get("skin_variations", {}).items():
            suffix = " and ".join(SKIN_TONES[tone] for tone in dict.fromkeys(tones.split("-")))
            files.append(other["image"])
            captions.append(f"{name}, {suffix}")
            aliases.append([f"{short}, {suffix}" for short in unique])
            variant.append(True)

    images = torch.stack([_on_white(package / "img" / "google" / "64" / file) for file in files])
    is_variant = torch.tensor(variant)
    weights = torch.where(is_variant, VARIANT_WEIGHT, 1.0)
    return Emoji(images, captions, aliases, is_variant, weights)


def to_model(images: torch.Tensor) -> torch.Tensor:
    """uint8 images to the range of the models, [-1, 1] in float32."""
    return images.float().div(127.5).sub(1)


def _plain(short_name: str) -> str:
    return re.sub(r"\d+$", "", re.sub(r"[_-]+", " ", short_name)).strip()


def _on_white(file: Path) -> torch.Tensor:
    drawing = Image.open(file).convert("RGBA")
    return pil_to_tensor(Image.alpha_composite(Image.new("RGBA", drawing.size, "white"), drawing).convert("RGB"))
