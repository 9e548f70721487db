"""Does an embedded model draw what it is asked for? The share of captions whose own image is among the 5 nearest.

    python examples/measure_emoji.py --data package --model emoji-sd --scales 1 3 5 8 15

One image per caption and scale, plain classifier-free guidance; nearest by cosine of EfficientNet-Lite0 features
(1280, at 224 px) over all 3,786 images of the set, skin-tone variants included. Captions are drawn from the base images
whose name is unique. Also prints the mean HSV saturation of the pictures and of the training images they name.

`--model emoji-vae` does the same for the training images encoded and decoded, the most that a denoiser could reach;
`--model emoji-clip` looks captions up among all base images by the model's own similarity.
"""

import argparse
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from diffguide.eval import FeatureExtractor, load_extractor, saturation
from diffguide.guidance import ClassifierFreeGuidance, ClipReward
from diffguide.pipelines import guide, load_pipeline
from diffguide.pipelines.embedded import MODELS

sys.path.insert(0, str(Path(__file__).parent / "train_emoji"))
from data import Emoji, load_emoji, to_model


def main() -> None:
    """Generate, look up, print one row per scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the unpacked npm package")
    parser.add_argument("--model", default="emoji-sd")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 3.0, 5.0, 8.0, 15.0])
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of captions and of the noise")
    parser.add_argument("--batch-size", type=int, default=25)
    parser.add_argument("--features", type=Path, help="file that keeps the features of the training images")
    parser.add_argument("--sheet", type=Path, help="folder for one sheet per scale, training image above generated one")
    args = parser.parse_args()

    emoji = load_emoji(args.data)
    unique = [i for i in range(len(emoji.names)) if not emoji.variant[i] and emoji.names.count(emoji.names[i]) == 1]
    order = torch.randperm(len(unique), generator=torch.Generator().manual_seed(args.seed))
    rows = torch.tensor(unique)[order[: args.captions]]
    reference = mean_saturation(emoji.images[rows])
    print(f"{args.model}, {len(rows)} captions, training saturation {reference:.3f}")
    if args.model in ("emoji-clip", "emoji-judge"):
        print(f"own image nearest of {len(unique)}: {retrieval(args.model, emoji, rows, unique):.1%}")
        return
    if args.model == "emoji-vae":
        settings = {"encoded and decoded": reconstruct(emoji.images[rows])}
    else:
        pipe = load_pipeline(args.model, progress_bar=False)
        settings = {f"{args.steps} steps, scale {w:g}": generate(pipe, w, rows, emoji, args) for w in args.scales}
    features = training_features(emoji.images, args.features)
    for setting, images in settings.items():
        nearest = (embed(images) @ features.T).topk(5).indices
        found = (nearest == rows[:, None]).any(1).float().mean()
        first = (nearest[:, 0] == rows).float().mean()
        print(f"{setting}: in the 5 nearest {found:.1%}, nearest {first:.1%}, saturation {mean_saturation(images):.3f}")
        if args.sheet:
            args.sheet.mkdir(parents=True, exist_ok=True)
            sheet(emoji.images[rows], images).save(args.sheet / f"{args.model}, {setting}.png")


def generate(pipe, scale: float, rows: torch.Tensor, emoji: Emoji, args: argparse.Namespace) -> torch.Tensor:
    """(N, 3, 64, 64) uint8, image k from the noise of its own row."""
    images = []
    distilled = "LatentConsistency" in type(pipe).__name__  # the scale is an input of the model
    with nullcontext() if distilled else guide(pipe, ClassifierFreeGuidance(scale)):
        for chunk in rows.split(args.batch_size):
            noise = [torch.Generator().manual_seed(args.seed * 100_000 + int(row)) for row in chunk]
            prompts = [emoji.names[row] for row in chunk]
            own = {"guidance_scale": scale} if distilled else {}
            images += pipe(prompts, num_inference_steps=args.steps, generator=noise, **own).images
    return torch.stack([pil_to_tensor(image.convert("RGB")) for image in images])


@torch.no_grad()
def reconstruct(images: torch.Tensor) -> torch.Tensor:
    """uint8 images through the autoencoder and back."""
    vae = load_pipeline("emoji-sd", progress_bar=False).vae
    decoded = [vae.decode(vae.encode(to_model(chunk)).latents).sample for chunk in images.split(25)]
    return torch.cat(decoded).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def retrieval(name: str, emoji: Emoji, rows: torch.Tensor, among: list[int]) -> float:
    """Share of the captions whose own image is the nearest one in a CLIP model."""
    model = ClipReward.from_pretrained(MODELS / name, local_files_only=True)
    text = model.embed_texts([emoji.names[row] for row in rows])
    image = torch.cat([model.embed_images(chunk / 255) for chunk in emoji.images[among].split(100)])
    nearest = (text @ image.T).argmax(1)
    return (torch.tensor(among)[nearest] == rows).float().mean().item()


def training_features(images: torch.Tensor, file: Path | None) -> torch.Tensor:
    """(N, 1280) unit features of all training images, kept in `file` between runs."""
    if file is not None and file.exists():
        return torch.load(file)
    features = embed(images)
    if file is not None:
        torch.save(features, file)
    return features


@cache
def network() -> FeatureExtractor:
    """EfficientNet-Lite0 with its ImageNet weights."""
    return load_extractor("efficientnet-lite0", device="cpu")


def embed(images: torch.Tensor) -> torch.Tensor:
    """(N, 1280) unit vectors of EfficientNet-Lite0 for uint8 images."""
    return F.normalize(torch.cat([network()(chunk) for chunk in images.split(32)]))


def mean_saturation(images: torch.Tensor) -> float:
    """Mean of the HSV S channel, in [0, 1], over pixels of uint8 images."""
    return saturation(images / 255).mean().item()


def sheet(above: torch.Tensor, below: torch.Tensor, columns: int = 20) -> Image.Image:
    """Pairs of images, training image above the generated one."""
    pairs = torch.cat([above, below], dim=2)
    rows = [torch.cat(list(row), dim=2) for row in pairs.split(columns) if len(row) == columns]
    return to_pil_image(torch.cat(rows, dim=1))


if __name__ == "__main__":
    main()
