"""What leaving out unconditional evaluations saves, in seconds, and what it costs in similarity to full guidance.

    python examples/benchmarks/evaluations.py                     # both models, batches of 1 and 16
    python examples/benchmarks/evaluations.py --models emoji-flow --batches 1 --json saving.json

The embedded models under plain guidance by the pipeline itself and by the engine, adaptive guidance and linear adaptive
guidance as they ship calibrated, and diffusers' own means: the skipping of unconditional halves in FasterCache, and the
callback that cuts guidance off. All make the same pictures in turn, round after round, each round with other prompts
and seeds; ratios are medians over rounds, with the range of their middle half. What the engine itself costs is taken
from many short runs in turns, with an interval. With one thread, seconds are those of the processor, to which other
programs add little. Evaluations are counted where latents enter the denoiser's first layer. Similarity is that of the
pictures to those of the pipeline's own plain guidance.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from engine_cost import claims
from saving_table import show, spread
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from ways import variants

from diffguide.pipelines import load_pipeline
from diffguide.pipelines.embedded import EMBEDDED

PROMPTS = ("red apple", "grinning face", "woman cook", "sailboat", "tiger face", "pizza", "rocket", "sunflower",
           "house", "soccer ball", "guitar", "penguin", "hot beverage", "umbrella", "key", "mushroom")  # fmt: skip


def main() -> None:
    """Print a table for each model and batch."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    report = []
    for name in args.models:
        pipe = load_pipeline(name, device=args.device, progress_bar=False)
        scale = EMBEDDED[name].guidance_scale
        for batch in args.batches:
            bench = Bench(pipe, batch, args.steps)
            rows = bench.compare(variants(pipe, name, scale, args), rounds(args))
            engine = claims(pipe, scale, bench.run, rounds(args), args.short_steps)
            report.append({"model": name, "batch": batch, "rows": rows, **engine})
            show(report[-1], args.steps)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"torch": torch.__version__, "threads": args.threads, "results": report}, file, indent=1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", default=["emoji-sd", "emoji-flow"])
    add("--batches", nargs="+", type=int, default=[1, 16])
    add("--steps", type=int, default=20)
    add("--short-steps", type=int, default=6, help="of the runs that time the engine itself (default 6)")
    add("--seconds", type=float, default=20.0, help="of each of both parts, per model and batch (default 20)")
    add("--rounds", type=int, default=1, help="at least so many of each part, however long they take (default 1)")
    add("--ag-threshold", type=float, help="in denoised space; default: that of the calibration that ships")
    add("--linear-ag", metavar="FILE", help="coefficients for the model and the steps; default: those that ship")
    add("--device", default="cpu")
    add("--threads", type=int, default=1)
    add("--json", metavar="FILE")
    return parser.parse_args()


def rounds(args: argparse.Namespace) -> Iterator[int]:
    """0, 1, ... until the seconds are over."""
    end = time.perf_counter() + args.seconds
    for number in itertools.count():
        if number >= args.rounds and time.perf_counter() > end:
            return
        yield number


def seeds(first: int, count: int) -> list[torch.Generator]:
    """One generator per picture."""
    return [torch.Generator().manual_seed(first + k) for k in range(count)]


class Bench:
    """Pictures of one pipeline at one batch size, timed and counted."""

    def __init__(self, pipe: Any, batch: int, steps: int):
        self.batch, self.steps = batch, steps
        denoiser = getattr(pipe, "transformer", None) or pipe.unet
        self.rows = 0
        first = getattr(denoiser, "pos_embed", None) or denoiser.conv_in
        first.register_forward_pre_hook(self._count)
        self.clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def _count(self, module: Any, args: tuple[Tensor, ...]) -> None:
        self.rows += len(args[0])

    def run(
        self, call: Callable[..., Any], number: int, steps: int, output_type: str = "pt", **more: Any
    ) -> tuple[float, float, Tensor]:
        """Seconds and evaluations per picture, and the pictures (B, 3, H, W) in [0, 1], of the batch of that number."""
        prompts = [PROMPTS[(number + k) % len(PROMPTS)] for k in range(self.batch)]
        self.rows, start = 0, self.clock()
        pictures = call(
            prompts, num_inference_steps=steps, output_type=output_type,
            generator=seeds(number * self.batch, self.batch), **more
        ).images  # fmt: skip
        return (self.clock() - start) / self.batch, self.rows / self.batch, pictures.float()

    def compare(self, makers: dict[str, Any], numbers: Iterable[int]) -> list[dict[str, Any]]:
        """A row per variant; the first is what the others are compared with."""
        names = list(makers)
        made: dict[str, list[tuple[float, float, Tensor]]] = {name: [] for name in names}
        broken: dict[str, str] = {}
        self._attempt(makers[names[0]], 0, steps=2)  # warms up
        for number in numbers:
            for name in names if number % 2 else reversed(names):
                if name not in broken:
                    try:
                        made[name].append(self._attempt(makers[name], number, self.steps))
                    except (AttributeError, RuntimeError, TypeError, ValueError, IndexError) as error:
                        broken[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:90]}"
        return [self._row(name, made[name], made[names[0]], broken.get(name, "")) for name in names]

    def _attempt(self, maker: Any, number: int, steps: int) -> tuple[float, float, Tensor]:
        with warnings.catch_warnings(), maker() as call:
            warnings.simplefilter("ignore")
            return self.run(call, number, steps)

    def _row(self, name: str, own: Any, plain: Any, broken: str) -> dict[str, Any]:
        if broken:
            return {"name": name, "broken": broken}
        ratios = [mine[0] / theirs[0] for mine, theirs in zip(own, plain)]
        pictures, reference = (torch.cat([result[2] for result in results]) for results in (own, plain))
        same = torch.equal(pictures, reference)
        return {
            "name": name,
            "broken": "",
            "seconds": statistics.median(result[0] for result in own),
            "rounds": len(own),
            "evaluations": statistics.mean(result[1] for result in own),
            "ratio": spread(ratios),
            "ssim": float(structural_similarity_index_measure(pictures, reference, data_range=1.0)),
            "psnr": None if same else float(peak_signal_noise_ratio(pictures, reference, data_range=1.0)),
        }


if __name__ == "__main__":
    main()
