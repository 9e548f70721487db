"""Latent consistency distillation of any Stable-Diffusion-shaped teacher, with or without a reward.

    accelerate launch examples/train_lcd/train_lcd.py --teacher emoji-sd --data emoji --output runs/lcm
    ... --student runs/lcm --reward clip                      RG-LCD: the reward's gradient through the decoder
    ... --student runs/lcm --reward clip --latent-reward      RG-LCD with a latent proxy, trained beside the student
    ... --student runs/lcm --reward clip --objective rocm --divergence kl --beta 1      ROCM, against that student

Started again with the same options it goes on from its checkpoint. The output is `pytorch_lora_weights.safetensors`
(--rank above 0) or `unet`; export.py makes a pipeline of it.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from consistency import GRID, Consistency
from data import Captioned, decode, prepare
from latent_reward import LatentReward, pretrain
from loop import run
from networks import Student
from objectives import Batch, Distillation, RewardConsistency

from diffguide.guidance.divergence import DIVERGENCES
from diffguide.pipelines import load_pipeline, load_reward
from diffguide.pipelines.embedded import EMBEDDED, MODELS
from diffguide.pipelines.errors import UserError, one_line


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--teacher", default="emoji-sd", help="an embedded model, a folder or a hub id (default emoji-sd)")
    add("--data", default="emoji", help="emoji, or a folder with a metadata.jsonl (default emoji)")
    add("--limit", type=int, help="use only so many images")
    add("--output", type=Path, required=True, help="folder for checkpoint, log and student")
    add("--student", type=Path, help="the output of an earlier run, or emoji-lcm, to begin with (default: the teacher)")
    add("--rank", type=int, default=24, help="of the low-rank update; 0: train all weights (default 24)")
    add("--objective", choices=("lcd", "rocm"), default="lcd")
    add("--reward", nargs="+", default=[], help="names as in `diffguide list rewards`; several: their mean")
    add("--reward-scale", type=float, default=1.0, help="beta of RG-LCD (default 1)")
    add("--latent-reward", action="store_true", help="RG-LCD through a latent proxy of the reward")
    add("--latent-patch", type=int, default=2, help="side of the proxy's patches, in latents (default 2)")
    add("--pretrain-steps", type=int, default=600, help="of the proxy, on captions (default 600)")
    add("--proxy-rate", type=float, default=1e-4, help="learning rate of the proxy beside the student (default 1e-4)")
    add("--temperature", type=float, default=0.02, help="of the preferences that the proxy learns (default 0.02)")
    add("--divergence", choices=DIVERGENCES, default="kl", help="of ROCM (default kl)")
    add("--beta", type=float, default=1.0, help="weight of the divergence in ROCM (default 1)")
    add("--rollout-steps", type=int, default=4, help="evaluations of ROCM's trajectory (default 4)")
    add("--scales", type=float, nargs=2, default=(6.0, 16.0), metavar=("LOW", "HIGH"), help="guidance (default 6 16)")
    add("--steps", type=int, default=1500, help="optimiser steps in all (default 1500)")
    add("--batch-size", type=int, default=32)
    add("--learning-rate", type=float, default=3e-4)
    add("--warmup", type=int, default=50, help="steps in which the rate rises (default 50)")
    add("--decay", type=float, default=0.3, help="last share of the steps, in which it falls to 0 (default 0.3)")
    add("--weight-decay", type=float, default=0.0)
    add("--max-grad-norm", type=float, default=1.0)
    add("--ema", type=float, default=0.95, help="of the target, which is also what is saved (default 0.95)")
    add("--mixed-precision", choices=("no", "fp16", "bf16"), default="no")
    add("--seed", type=int, default=0)
    add("--log-every", type=int, default=20, help="steps between lines of the log (default 20)")
    add("--save-minutes", type=float, default=5.0, help="minutes between checkpoints (default 5)")
    args = parser.parse_args()
    if args.objective == "rocm" and not (args.student and args.reward):
        parser.error("ROCM needs --student, a consistency model to begin with, and --reward")
    if args.latent_reward and not args.reward:
        parser.error("--latent-reward is a proxy of a reward: name it with --reward")
    if args.latent_reward and args.objective == "rocm":
        parser.error("--latent-reward belongs to --objective lcd")
    if not 2 <= args.rollout_steps <= GRID:
        parser.error(f"--rollout-steps is from 2, as there is no divergence in the last step, to {GRID}")
    if args.student and args.student.resolve() == args.output.resolve():
        parser.error("--output is the student to begin with: give another folder")
    return args


def main() -> None:
    """The program. SystemExit, with one line, for a mistake of the user."""
    try:
        train(arguments())
    except UserError as error:
        raise SystemExit(f"train_lcd.py: error: {one_line(error)}") from error


def train(args: argparse.Namespace) -> None:
    """Prepare the data, then train."""
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    pipe = load_pipeline(args.teacher, device=str(accelerator.device), dtype="float32")
    if not {"vae", "text_encoder", "unet"} <= pipe.components.keys():
        raise UserError(f"{args.teacher!r} is a {type(pipe).__name__}: a teacher has a UNet, a VAE and a text encoder")
    for part in (pipe.vae, pipe.text_encoder, pipe.unet):
        part.requires_grad_(False).eval()
    data = prepare(pipe, args.data, args.limit)
    torch.manual_seed(args.seed)
    student = Student(pipe.unet, args.rank)
    if args.student:
        embedded = EMBEDDED.keys() & {str(args.student)}
        student.load(MODELS / args.student if embedded else args.student)
    student.move_to(accelerator.device).freeze_reference()
    function = Consistency(pipe.scheduler.config, device=accelerator.device)
    expert = pixel_reward(pipe, args.reward, accelerator.device)
    proxy = None
    if args.latent_reward:
        proxy = make_proxy(pipe, data, args, accelerator)
    if args.objective == "rocm":
        divergence = DIVERGENCES[args.divergence]
        objective = RewardConsistency(
            student, function, expert, divergence, args.beta, args.rollout_steps, tuple(args.scales)
        )
    else:
        objective = Distillation(student, function, tuple(args.scales), proxy or expert, args.reward_scale)

    def step(forward, generator):
        latents, text, prompts = data.batch(args.batch_size, generator, accelerator.device)
        batch = Batch(latents, text, data.empty.to(accelerator.device), prompts)
        if proxy is not None:
            proxy.requires_grad_(False)
        with accelerator.autocast():
            loss, logged, made = objective(forward, batch, generator)
        if proxy is not None:
            candidates = made | {"real": latents}
            imitation = teach(proxy, expert, candidates, prompts, args.temperature)
            loss, logged = loss + imitation, logged | {"imitation": imitation.detach()}
        return loss, logged | {"loss": loss.detach()}

    run(accelerator, student, step, args, proxy, args.proxy_rate)
    if proxy is not None and accelerator.is_main_process:
        proxy.save(args.output / "latent_reward")


def pixel_reward(pipe, names: list[str], device: torch.device):
    """The mean of the named rewards of the decoded latents; None for no names."""
    rewards = [load_reward(name, device=str(device)) for name in names]

    def reward(latents, prompts):
        images = decode(pipe, latents)
        return torch.stack([one(images, prompts) for one in rewards]).mean(0)

    return reward if rewards else None


def make_proxy(pipe, data: Captioned, args: argparse.Namespace, accelerator: Accelerator) -> LatentReward:
    """The latent reward, trained on latents and captions."""
    _, channels, side, _ = data.latents.shape
    proxy = LatentReward(pipe.text_encoder, pipe.tokenizer, channels, side, args.latent_patch).to(accelerator.device)
    if not (args.output / "checkpoint").exists():
        pretrain(proxy, data, args.pretrain_steps, 2 * args.batch_size, 1e-3, args.seed, accelerator.print)
    return proxy


def teach(proxy: LatentReward, expert, candidates: dict, prompts: list[str], temperature: float) -> torch.Tensor:
    """The proxy's loss: to prefer, of each pair of candidates, what the expert prefers, for the same prompts."""
    with torch.no_grad():
        theirs = {name: expert(latents, prompts) for name, latents in candidates.items()}
    for name, parameter in proxy.named_parameters():
        parameter.requires_grad_("text_model" not in name)
    return proxy.imitate(theirs, {name: proxy(latents, prompts) for name, latents in candidates.items()}, temperature)


if __name__ == "__main__":
    main()
