"""Train `emoji-clip`: a CLIPModel whose text tower also conditions the embedded pipelines.

    accelerate launch examples/train_emoji/train_clip.py --data package --output runs/clip
    accelerate launch examples/train_emoji/train_clip.py --data package --output runs/judge \
        --seed 1 --width 160 --vision-width 128 --augmentation 2 --steps 1200

The second is `emoji-judge`: another network, seed and augmentation, which no training here optimises, to judge by.

Two objectives. The contrastive one of CLIP aligns captions and images. The second asks a linear read-out of the text
embedding for the principal components of the captioned image: with so few images, what a caption looks like is learned
many times faster here, on 20 tokens, than later through the noise of a denoiser.
"""

import argparse

import torch
import torch.nn.functional as F
from data import Emoji, load_emoji, to_model
from loop import add_arguments, train
from tokenizer import MAX_LENGTH, VOCABULARY, build_tokenizer
from torch import nn
from torchvision.transforms import v2
from transformers import CLIPConfig, CLIPModel

COMPONENTS = 224


class Contrast(nn.Module):
    """CLIP's symmetric cross-entropy + `read_out_weight` times the squared error of the principal components."""

    def __init__(self, tokenizer, width: int = 256, vision_width: int = 192, read_out_weight: float = 30.0):
        super().__init__()
        special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        text = {
            "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 3,
            "num_attention_heads": 4, "max_position_embeddings": MAX_LENGTH, "projection_dim": width,
            "hidden_act": "gelu", "pad_token_id": tokenizer.pad_token_id, **special,
        }  # fmt: skip
        vision = {
            "hidden_size": vision_width, "intermediate_size": 4 * vision_width, "num_hidden_layers": 4,
            "num_attention_heads": vision_width // 64,
            "image_size": 64, "patch_size": 8, "projection_dim": width, "hidden_act": "gelu",
        }  # fmt: skip
        self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
        self.read_out = nn.Linear(width, COMPONENTS)
        self.read_out_weight = read_out_weight

    def forward(
        self, images: torch.Tensor, tokens: torch.Tensor, rows: torch.Tensor, components: torch.Tensor
    ) -> torch.Tensor:
        """images: (B, 3, 64, 64) in [-1, 1] of the first B captions; tokens: (T, L); rows: (T,); components: (T, K)."""
        text = self.clip.text_projection(self.clip.text_model(input_ids=tokens).pooler_output)
        image = self.clip.visual_projection(self.clip.vision_model(pixel_values=images).pooler_output)
        paired = text[: len(images)]
        logits = self.clip.logit_scale.clamp(max=4.6).exp() * F.normalize(paired) @ F.normalize(image).T
        same = rows[: len(images), None] == rows[None, : len(images)]
        target = same / same.sum(1, keepdim=True)
        contrast = (F.cross_entropy(logits.float(), target) + F.cross_entropy(logits.float().T, target)) / 2
        return contrast + self.read_out_weight * F.mse_loss(self.read_out(text).float(), components)


def principal_components(emoji: Emoji, power: float = 0.5) -> torch.Tensor:
    """(N, COMPONENTS): coordinates of each image, at 32 x 32, on the leading components, variance to the `power`."""
    pixels = F.avg_pool2d(to_model(emoji.images), 2).flatten(1)
    weights = emoji.weights[:, None] / emoji.weights.sum()
    centred = pixels - (weights * pixels).sum(0)
    _, axes = torch.linalg.eigh((weights * centred).T @ centred)
    coordinates = centred @ axes.flip(1)[:, :COMPONENTS]
    spread = (weights * coordinates.square()).sum(0).sqrt()
    return coordinates / spread.pow(1 - power) / spread[0].pow(power)


def main() -> None:
    """Train and save tokenizer and CLIP model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, steps=2400, batch_size=32, learning_rate=1.5e-3)
    parser.add_argument("--captions", type=int, default=256, help="captions a step, the images' own among them")
    parser.add_argument("--width", type=int, default=256, help="of the text tower and the embeddings (default 256)")
    parser.add_argument("--vision-width", type=int, default=192, help="of the image tower (default 192)")
    parser.add_argument("--augmentation", type=float, default=1.0, help="strength, as a multiple (default 1)")
    args = parser.parse_args()
    emoji = load_emoji(args.data)
    tokenizer = build_tokenizer(text for name, aliases in zip(emoji.names, emoji.aliases) for text in (name, *aliases))
    tokenizer.save_pretrained(args.output / "tokenizer")
    components = principal_components(emoji)
    a = args.augmentation
    shifts = v2.RandomAffine(8 * a, translate=(0.06 * a, 0.06 * a), scale=(1 - 0.15 * a, 1 + 0.1 * a), fill=1.0)
    augment = v2.Compose([shifts, v2.ColorJitter(0.15 * a, 0.15 * a, 0.15 * a)])

    def batch(generator: torch.Generator) -> dict:
        rows = torch.multinomial(emoji.weights, args.captions, replacement=False, generator=generator)
        texts = [emoji.caption(int(row), generator, alias_rate=0.3) for row in rows]
        articles = torch.rand(len(texts), generator=generator) < 0.1
        texts = [f"a {text}" if article else text for text, article in zip(texts, articles)]
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids
        images = augment(emoji.images[rows[: args.batch_size]].float() / 255) * 2 - 1
        return {"images": images, "tokens": tokens, "rows": rows, "components": components[rows]}

    def finish(done: Contrast) -> None:
        done.clip.save_pretrained(args.output / "clip")

    train(Contrast(tokenizer, args.width, args.vision_width), batch, args, finish, ema_decay=0.998, weight_decay=0.02)


if __name__ == "__main__":
    main()
