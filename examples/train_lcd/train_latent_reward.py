"""Train a reward of latents alone, on latents and their captions: for RewardGuidance without a decoder, for ensembles.

    python examples/train_lcd/train_latent_reward.py --teacher emoji-sd --data emoji --output runs/latent-0 --seed 0

Several seeds are an ensemble. The output is a folder for `ClipReward.from_pretrained`.
"""

import argparse
from pathlib import Path

import torch
from data import prepare
from latent_reward import LatentReward, pretrain

from diffguide.pipelines import load_pipeline


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--teacher", default="emoji-sd", help="whose latents and text encoder they are (default emoji-sd)")
    add("--data", default="emoji", help="emoji, or a folder with a metadata.jsonl (default emoji)")
    add("--limit", type=int, help="use only so many images")
    add("--output", type=Path, required=True)
    add("--patch", type=int, default=2, help="side of the patches, in latents (default 2)")
    add("--steps", type=int, default=600)
    add("--batch-size", type=int, default=64)
    add("--learning-rate", type=float, default=1e-3)
    add("--seed", type=int, default=0)
    add("--device", default="cpu")
    args = parser.parse_args()
    pipe = load_pipeline(args.teacher, device=args.device, dtype="float32", progress_bar=False)
    data = prepare(pipe, args.data, args.limit)
    torch.manual_seed(args.seed)
    _, channels, side, _ = data.latents.shape
    model = LatentReward(pipe.text_encoder, pipe.tokenizer, channels, side, args.patch).to(args.device)
    pretrain(model, data, args.steps, args.batch_size, args.learning_rate, args.seed, print)
    model.save(args.output)


if __name__ == "__main__":
    main()
