"""The loop of the distillation: accelerate, moving target, checkpoint and resume, a log in JSON lines and TensorBoard.

A step's random numbers come from (seed, step, process) alone: a run that was killed and resumed from its checkpoint
gives the weights that it would have given.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

sys.path.insert(1, str(Path(__file__).parents[1]))
import checkpointing

ANY_TIME = ("output", "steps", "log_every", "save_minutes")
"""Options that a training may go on with others of: it may be made longer."""


class State:
    """What the checkpoint holds beside what accelerate knows: the step, and the moving averages."""

    def __init__(self, student):
        self.step, self.student = 0, student

    def state_dict(self) -> dict:
        """For accelerate."""
        return {"step": self.step, "average": self.student.state_dict_of_average()}

    def load_state_dict(self, state: dict) -> None:
        """For accelerate."""
        self.step = state["step"]
        self.student.load_average(state["average"])


class Log:
    """One line of JSON for every `every` steps in log.jsonl, the same to TensorBoard where it is installed."""

    def __init__(self, folder: Path, every: int, step: int):
        self.every, self.sums, self.count, self.since = every, {}, 0, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "log.jsonl"
        if self.file.exists():  # what came after the checkpoint is done again
            whole = [line for line in self.file.read_text().splitlines(keepends=True) if line.endswith("\n")]
            self.file.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(folder / "tensorboard", purge_step=step)
        except ImportError:
            self.board = None

    def add(self, step: int, values: dict[str, torch.Tensor], rate: float) -> None:
        """Sum `values` on their device; write the means every so often."""
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.float()
        if step % self.every:
            return
        means = {name: round(float(total) / self.count, 6) for name, total in self.sums.items()}
        seconds = (time.monotonic() - self.since) / self.count
        entry = {"step": step} | means | {"learning_rate": rate, "seconds_per_step": round(seconds, 4)}
        with self.file.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(json.dumps(entry), flush=True)
        for name, value in means.items():
            if self.board:
                self.board.add_scalar(name, value, step)
        self.sums, self.count, self.since = {}, 0, time.monotonic()


def run(
    accelerator: Accelerator,
    student: nn.Module,
    step: Callable[[Callable, torch.Generator], tuple[torch.Tensor, dict]],
    args,
    beside: nn.Module | None = None,
    beside_rate: float = 0.0,
) -> None:
    """`args.steps` optimiser steps on `step(forward, generator) -> (loss, logged)`, from the checkpoint, if any.

    beside: another module that is trained with it, its loss being part of the step's (the latent reward).
    """
    groups = [{"params": list(student.trained), "lr": args.learning_rate}]
    if beside is not None:
        groups.append({"params": [p for p in beside.parameters() if p.requires_grad], "lr": beside_rate})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=args.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: checkpointing.rate_of(n, args.steps, args.warmup, args.decay)
    )
    state = State(student)
    wrapped, optimizer = accelerator.prepare(student, optimizer)
    accelerator.register_for_checkpointing(schedule, state)
    if beside is not None:
        accelerator.register_for_checkpointing(beside)
    checkpoint = args.output / "checkpoint"
    checkpointing.recover(accelerator, checkpoint)
    checkpointing.check_options(accelerator, args.output, {k: v for k, v in vars(args).items() if k not in ANY_TIME})
    if checkpoint.exists():
        accelerator.load_state(str(checkpoint))
        accelerator.print(f"going on from step {state.step}", flush=True)
    log = Log(args.output, args.log_every, state.step) if accelerator.is_main_process else None
    saved = time.monotonic()
    while state.step < args.steps:
        generator = checkpointing.generator_of(args.seed, state.step, accelerator.process_index)
        loss, logged = step(wrapped, generator)
        accelerator.backward(loss)
        if beside is not None and accelerator.num_processes > 1:  # the student's are averaged by its wrapper
            for parameter in (p for p in beside.parameters() if p.grad is not None):
                parameter.grad = accelerator.reduce(parameter.grad, "mean")
        for group in groups:  # each by itself: the proxy's gradient is no measure of the student's
            accelerator.clip_grad_norm_(group["params"], args.max_grad_norm)
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        student.average(args.ema)
        state.step += 1
        if log:
            log.add(state.step, logged, rate)
        due = checkpointing.agreed(accelerator, time.monotonic() - saved > 60 * args.save_minutes)
        if due or state.step == args.steps:
            checkpointing.save(accelerator, checkpoint)
            if accelerator.is_main_process:
                student.save(args.output)
            saved = time.monotonic()
    if accelerator.is_main_process:  # again, should a kill have come between the checkpoint and what is made of it
        student.save(args.output)
    accelerator.end_training()
