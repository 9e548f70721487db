"""Train the autoencoder of the embedded models: AutoencoderTiny, 64 x 64 x 3 pixels -> 8 x 8 x 32 latents.

accelerate launch examples/train_emoji/train_autoencoder.py --data package --output runs/vae
"""

import argparse

import torch
import torch.nn.functional as F
from data import load_emoji, to_model
from diffusers import AutoencoderTiny
from loop import add_arguments, train
from torch import nn


class Reconstruction(nn.Module):
    """L1 + squared error + L1 of the gradients, decoding noisy latents.

    The squared error is for rare colours, which L1 alone gives up. The latents' channels are kept near mean 0 and
    standard deviation 1, so that the scaling factor of the pipelines is 1.
    """

    def __init__(self, latent_noise: float = 0.1, moment_weight: float = 0.02):
        super().__init__()
        self.vae = AutoencoderTiny(
            encoder_block_out_channels=(48, 48, 48, 48),
            decoder_block_out_channels=(64, 64, 64, 64),
            num_encoder_blocks=(0, 1, 3, 3),
            num_decoder_blocks=(4, 3, 1, 0),
            latent_channels=32,
        )
        self.latent_noise, self.moment_weight = latent_noise, moment_weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: (B, 3, 64, 64) in [-1, 1]. The scalar loss."""
        latents = self.vae.encoder(images)
        decoded = self.vae.decoder(latents + self.latent_noise * torch.randn_like(latents)).float()
        pixel = F.l1_loss(decoded, images) + 2 * F.mse_loss(decoded, images)
        edges = sum(F.l1_loss(decoded.diff(dim=dim), images.diff(dim=dim)) for dim in (2, 3))
        moments = latents.float().mean((0, 2, 3)).square() + (latents.float().std((0, 2, 3)) - 1).square()
        return pixel + edges + self.moment_weight * moments.mean()


def main() -> None:
    """Train and save the autoencoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, steps=2400, batch_size=32, learning_rate=2.5e-3)
    args = parser.parse_args()
    emoji = load_emoji(args.data)
    weights = emoji.weights.clamp(min=0.3)

    def batch(generator: torch.Generator) -> dict:
        rows = torch.multinomial(weights, args.batch_size, replacement=False, generator=generator)
        images = to_model(emoji.images[rows])
        return {"images": images.contiguous(memory_format=torch.channels_last)}

    objective = Reconstruction().to(memory_format=torch.channels_last)
    train(objective, batch, args, lambda done: done.vae.save_pretrained(args.output / "vae"), ema_decay=0.995)


if __name__ == "__main__":
    main()
