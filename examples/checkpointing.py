"""What the training loops share: random numbers and learning rate of a step, and checkpoints that no kill can lose."""

import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

TEMPORARY, OLD = "checkpoint.new", "checkpoint.old"


def generator_of(seed: int, step: int, process: int) -> torch.Generator:
    """The random numbers of a step, which torch's own are set to as well: of these three alone."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_009 + process)
    torch.manual_seed(generator.initial_seed())
    return generator


def rate_of(step: int, steps: int, warmup: int, decay: float) -> float:
    """The learning rate as a share of its peak: warm-up, plateau, linear decay over the last share of the steps."""
    return min(1.0, (step + 1) / max(warmup, 1), max((steps - step) / max(decay * steps, 1), 0.0))


def agreed(accelerator: Accelerator, due: bool) -> bool:
    """What the main process says, in all of them: their clocks differ, and a checkpoint is made by all."""
    if accelerator.num_processes == 1:
        return due
    return bool(broadcast(torch.tensor(due, dtype=torch.uint8, device=accelerator.device)))


def recover(accelerator: Accelerator, checkpoint: Path) -> None:
    """Where a kill came between the two names of `save`, the old checkpoint is still there."""
    old = checkpoint.with_name(OLD)
    if accelerator.is_main_process and old.exists() and not checkpoint.exists():
        old.rename(checkpoint)
    accelerator.wait_for_everyone()


def save(accelerator: Accelerator, checkpoint: Path) -> None:
    """Replace the checkpoint by renaming, so that a kill leaves the old one or the new one, under a name of its own."""
    fresh, old = checkpoint.with_name(TEMPORARY), checkpoint.with_name(OLD)
    fresh.mkdir(parents=True, exist_ok=True)  # by each: all write into it
    accelerator.save_state(str(fresh))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(old, ignore_errors=True)
        if checkpoint.exists():
            checkpoint.rename(old)
        fresh.rename(checkpoint)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()
