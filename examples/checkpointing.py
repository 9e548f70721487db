"""What the training loops share: random numbers and learning rate of a step, and checkpoints that no kill can lose."""

import json
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from diffguide.pipelines.errors import UserError

TEMPORARY, OLD = "checkpoint.new", "checkpoint.old"


def generator_of(seed: int, step: int, process: int) -> torch.Generator:
    """The random numbers of a step: of these three alone. So are torch's own from then on, which are others."""
    own = (seed * 1_000_003 + step) * 1_009 + process
    torch.manual_seed(own ^ 0xFFFFFFFF)  # of a seed the low 32 bits count
    return torch.Generator().manual_seed(own)


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


def check_options(accelerator: Accelerator, folder: Path, options: dict) -> None:
    """Write the options of a training to `folder`. UserError: it holds a checkpoint of one with others."""
    file, here = folder / "options.json", {name: str(value) for name, value in options.items()}
    there = json.loads(file.read_text()) if file.exists() and (folder / "checkpoint").exists() else here
    changed = [name for name in here if there.get(name, here[name]) != here[name]]
    if changed:
        name = changed[0]
        raise UserError(
            f"{str(folder)!r} holds a training with --{name.replace('_', '-')} {there[name]}, not {here[name]}: "
            "give another --output, or its own options to go on"
        )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(here, indent=1) + "\n")


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
