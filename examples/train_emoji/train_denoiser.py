"""Train the denoiser of `emoji-sd` (UNet, v-prediction) or of `emoji-flow` (SD3 transformer, flow matching).

    accelerate launch examples/train_emoji/train_denoiser.py sd   --data package --vae runs/vae --clip runs/clip --output runs/sd
    accelerate launch examples/train_emoji/train_denoiser.py flow --data package --vae runs/vae --clip runs/clip --output runs/flow

Autoencoder and text tower are frozen, so latents and text states are computed once, before the first step.
"""  # noqa: E501

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from data import Emoji, load_emoji, to_model
from diffusers import AutoencoderTiny, DDPMScheduler, SD3Transformer2DModel, UNet2DConditionModel
from loop import add_arguments, train
from torch import nn
from transformers import CLIPModel, CLIPTokenizer

CHANNELS, WIDTH = 32, 256  # of the latents; of the text states


class UNetLoss(nn.Module):
    """v-prediction under Stable Diffusion's noise schedule, squared error, uniform timesteps."""

    def __init__(self):
        super().__init__()
        self.model = UNet2DConditionModel(
            sample_size=8,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            block_out_channels=(128, 192),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            attention_head_dim=(2, 3),  # diffusers reads this as the number of heads
            cross_attention_dim=WIDTH,
        )
        self.scheduler = DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction"
        )

    def forward(self, latents: torch.Tensor, text: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """latents: (B, 32, 8, 8); text: (B, L, 256), the last states; pooled: not used. The scalar loss."""
        noise = torch.randn_like(latents)
        t = torch.randint(self.scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
        noisy = self.scheduler.add_noise(latents, noise, t)
        target = self.scheduler.get_velocity(latents, noise, t)
        return F.mse_loss(self.model(noisy, t, text).sample.float(), target)


class FlowLoss(nn.Module):
    """Rectified flow, squared error, logit-normal times shifted a little towards noise."""

    def __init__(self, shift: float = 0.4):
        super().__init__()
        self.model = SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=6,
            attention_head_dim=64,
            num_attention_heads=3,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=192,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=16,
        )
        self.shift = shift

    def forward(self, latents: torch.Tensor, text: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """latents: (B, 32, 8, 8); text: (B, L, 256), the last states but one; pooled: (B, 256). The scalar loss.

        The pipeline has two CLIP towers, here the same one twice, and pads the missing T5 with L zero states.
        """
        sigma = torch.sigmoid(torch.randn(len(latents), device=latents.device) + self.shift).view(-1, 1, 1, 1)
        noise = torch.randn_like(latents)
        noisy = torch.lerp(latents, noise, sigma)
        states = torch.cat([text, text], dim=-1)
        states = torch.cat([states, torch.zeros_like(states)], dim=1)
        velocity = self.model(noisy, states, torch.cat([pooled, pooled], dim=-1), 1000 * sigma.flatten()).sample
        return F.mse_loss(velocity.float(), noise - latents)


@torch.no_grad()
def encode_images(emoji: Emoji, vae: Path) -> torch.Tensor:
    """(N, 32, 8, 8) latents of all images; the autoencoder keeps each channel near mean 0, standard deviation 1."""
    encoder = AutoencoderTiny.from_pretrained(vae / "vae").encoder
    return torch.cat([encoder(to_model(images)) for images in emoji.images.split(64)])


@torch.no_grad()
def encode_captions(emoji: Emoji, clip: Path, layer: int) -> tuple[torch.Tensor, torch.Tensor, list[list[int]]]:
    """Text states (C, L, 256), pooled embeddings (C, 256) and, for each image, the rows of its captions.

    The first caption of an image is its name; row 0 is the empty prompt. `layer`: -1 for the last hidden states after
    the final norm (what SD reads), -2 for those of the last layer but one (what SD3 reads).
    """
    tokenizer = CLIPTokenizer.from_pretrained(clip / "tokenizer")
    model = CLIPModel.from_pretrained(clip / "clip").eval()
    texts, rows = [""], []
    for name, aliases in zip(emoji.names, emoji.aliases):
        options = [name, *aliases]
        rows.append(list(range(len(texts), len(texts) + len(options))))
        texts += options
    states, pooled = [], []
    for start in range(0, len(texts), 256):
        chunk = texts[start : start + 256]
        tokens = tokenizer(chunk, padding="max_length", truncation=True, return_tensors="pt").input_ids
        out = model.text_model(input_ids=tokens, output_hidden_states=True)
        states.append(out.last_hidden_state if layer == -1 else out.hidden_states[layer])
        pooled.append(model.text_projection(out.pooler_output))
    return torch.cat(states), torch.cat(pooled), rows


def main() -> None:
    """Train and save one denoiser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("sd", "flow"))
    add_arguments(parser, steps=8000, batch_size=64, learning_rate=1e-3)
    parser.add_argument("--vae", type=Path, required=True, help="output of train_autoencoder.py")
    parser.add_argument("--clip", type=Path, required=True, help="output of train_clip.py")
    parser.add_argument("--drop", type=float, default=0.1, help="share of empty captions (default 0.1)")
    args = parser.parse_args()

    emoji = load_emoji(args.data)
    latents = encode_images(emoji, args.vae)
    states, pooled, rows = encode_captions(emoji, args.clip, layer=-1 if args.kind == "sd" else -2)

    def batch(generator: torch.Generator) -> dict:
        images = torch.multinomial(emoji.weights, args.batch_size, replacement=False, generator=generator)
        draw = torch.rand(args.batch_size, 3, generator=generator)
        captions = []
        for image, (drop, alias, which) in zip(images.tolist(), draw.tolist()):
            name, *others = rows[image]
            chosen = others[int(which * len(others))] if others and alias < 0.15 else name
            captions.append(0 if drop < args.drop else chosen)
        return {"latents": latents[images], "text": states[captions], "pooled": pooled[captions]}

    objective = UNetLoss() if args.kind == "sd" else FlowLoss()
    folder = args.output / ("unet" if args.kind == "sd" else "transformer")
    train(objective, batch, args, lambda done: done.model.save_pretrained(folder), ema_decay=0.9995)


if __name__ == "__main__":
    main()
