"""What leaving out unconditional evaluations saves, in seconds, and what it costs in similarity to full guidance.

    python examples/benchmarks/evaluations.py                     # both models, batches of 1 and 16
    python examples/benchmarks/evaluations.py --models emoji-flow --linear-ag linear-ag.json --json saving.json

The embedded models under plain guidance by the pipeline itself and by the engine, adaptive guidance, linear adaptive
guidance where there is a file of coefficients (`diffguide calibrate linear-ag`), and diffusers' own means: the skipping
of unconditional halves in FasterCache, and the callback that cuts guidance off. All make the same pictures in turn,
round after round, each round with other prompts and seeds; ratios are medians over rounds, with the range of their
middle half. With one thread, seconds are those of the processor, to which other programs add little. Evaluations are
counted where latents enter the denoiser's first layer. Similarity is that of the pictures to those of the pipeline's
own plain guidance.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from diffguide.guidance import AdaptiveGuidance, ClassifierFreeGuidance, LinearAdaptiveGuidance
from diffguide.pipelines import guide, load_pipeline
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
        threshold = args.ag_threshold or saving_threshold(pipe, scale, args.steps)
        for batch in args.batches:
            bench = Bench(pipe, scale, batch, args.steps)
            rows = bench.compare(variants(pipe, scale, threshold, args), rounds(args))
            report.append({"model": name, "batch": batch, "rows": rows, **bench.claims(rounds(args))})
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
    add("--seconds", type=float, default=25.0, help="of each of both parts, per model and batch (default 25)")
    add("--rounds", type=int, default=2, help="at least so many of each part, however long they take (default 2)")
    add("--ag-threshold", type=float, help="default: found here, for a quarter of the evaluations")
    add("--linear-ag", metavar="FILE", help="coefficients for the model and the steps")
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


def saving_threshold(pipe: Any, scale: float, steps: int) -> float:
    """The threshold of adaptive guidance, in denoised space, that leaves out a quarter of the evaluations (bisection).

    `diffguide calibrate ag` does this with care; here it is for a saving like that of the cutoff callback.
    """
    low, high = 0.5, 6.0  # -log10(1 - threshold)
    for _ in range(6):
        middle = (low + high) / 2
        with guide(pipe, AdaptiveGuidance(scale, 1 - 10**-middle, space="denoised")) as guided:
            guided(list(PROMPTS[:4]), num_inference_steps=steps, output_type="latent", generator=seeds(1000, 4))
            low, high = (middle, high) if guided.trace.evaluations < 1.5 * steps else (low, middle)
    return 1 - 10 ** -((low + high) / 2)


def variants(pipe: Any, scale: float, threshold: float, args: argparse.Namespace) -> dict[str, Any]:
    """Name -> context manager whose value is the callable that is timed, with the arguments of the pipeline."""
    rules = {
        "engine, plain guidance": ClassifierFreeGuidance(scale),
        f"AG, threshold {threshold:.5f}": AdaptiveGuidance(scale, threshold, space="denoised"),
    }
    if args.linear_ag:
        rules["LinearAG"] = LinearAdaptiveGuidance(scale, args.linear_ag)
    else:
        print("LinearAG is left out: give --linear-ag FILE, from `diffguide calibrate linear-ag`")
    found: dict[str, Any] = {"pipeline, plain guidance": lambda: contextlib.nullcontext(native(pipe, scale))}
    for name, rule in rules.items():
        found[name] = lambda rule=rule: guide(pipe, rule)
    found["diffusers FasterCache, unconditional half"] = lambda: faster_cache(pipe, scale)
    found["diffusers cutoff callback at half"] = lambda: contextlib.nullcontext(cut_off(pipe, scale))
    found["engine, conditional after step 0"] = lambda: guide(pipe, AdaptiveGuidance(scale, -1.0))
    return found


def native(pipe: Any, scale: float, **more: Any) -> Callable[..., Any]:
    """The pipeline's own guidance."""
    return lambda *args, **kwargs: pipe(*args, guidance_scale=scale, **more, **kwargs)


def cut_off(pipe: Any, scale: float) -> Callable[..., Any]:
    """Guidance ends after half of the steps."""
    from diffusers.callbacks import SD3CFGCutoffCallback, SDCFGCutoffCallback

    kind = SD3CFGCutoffCallback if hasattr(pipe, "transformer") else SDCFGCutoffCallback
    return native(pipe, scale, callback_on_step_end=kind(cutoff_step_ratio=0.5))


@contextlib.contextmanager
def faster_cache(pipe: Any, scale: float) -> Iterator[Callable[..., Any]]:
    """Every fifth unconditional evaluation in the lower two thirds of the noise, its defaults; attention as it is."""
    from diffusers.hooks import FasterCacheConfig, HookRegistry, apply_faster_cache

    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    names = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")
    config = FasterCacheConfig(
        spatial_attention_block_skip_range=None,
        tensor_format="BCHW",
        current_timestep_callback=lambda: float(pipe.scheduler.timesteps[pipe.scheduler.step_index or 0]),
        attention_weight_callback=lambda module: 0.5,
        _unconditional_conditional_input_kwargs_identifiers=names,
    )
    apply_faster_cache(denoiser, config)
    try:
        yield native(pipe, scale)
    finally:
        HookRegistry.check_if_exists_or_initialize(denoiser).remove_hook("faster_cache_denoiser", recurse=True)


def seeds(first: int, count: int) -> list[torch.Generator]:
    """One generator per picture."""
    return [torch.Generator().manual_seed(first + k) for k in range(count)]


class Bench:
    """Pictures of one pipeline at one batch size, timed and counted."""

    def __init__(self, pipe: Any, scale: float, batch: int, steps: int):
        self.pipe, self.scale, self.batch, self.steps = pipe, scale, batch, steps
        denoiser = getattr(pipe, "transformer", None) or pipe.unet
        self.rows = 0
        first = getattr(denoiser, "pos_embed", None) or denoiser.conv_in
        first.register_forward_pre_hook(self._count)
        self.clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def _count(self, module: Any, args: tuple[Tensor, ...]) -> None:
        self.rows += len(args[0])

    def run(self, call: Callable[..., Any], number: int, steps: int, **more: Any) -> tuple[float, float, Tensor]:
        """Seconds and evaluations per picture, and the pictures (B, 3, H, W) in [0, 1], of the batch of that number."""
        prompts = [PROMPTS[(number + k) % len(PROMPTS)] for k in range(self.batch)]
        self.rows, start = 0, self.clock()
        pictures = call(
            prompts, num_inference_steps=steps, output_type="pt",
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

    def claims(self, numbers: Iterable[int], steps: int = 6) -> dict[str, Any]:
        """The engine beside the bare pipeline, in pairs; a conditional step beside a full one, of the engine."""
        calls = {
            "bare": lambda: contextlib.nullcontext(native(self.pipe, self.scale)),
            "engine": lambda: guide(self.pipe, ClassifierFreeGuidance(self.scale)),
            "conditional": lambda: guide(self.pipe, AdaptiveGuidance(self.scale, -1.0)),
        }
        whole, share, fastest = [], [], {name: [] for name in calls}
        for number in numbers:
            total = {}
            for name in calls if number % 2 else reversed(calls):
                ends: list[float] = []

                def callback(pipe: Any, index: int, timestep: Any, tensors: Any, ends: Any = ends) -> Any:
                    ends.append(self.clock())
                    return tensors

                with warnings.catch_warnings(), calls[name]() as call:
                    warnings.simplefilter("ignore")
                    total[name] = self.run(call, number, steps, callback_on_step_end=callback)[0]
                steps_but_the_first = [late - early for early, late in zip(ends, ends[1:])]
                fastest[name].append(min(steps_but_the_first))
            whole.append(total["engine"] / total["bare"])
            share.append(fastest["conditional"][-1] / fastest["engine"][-1])
        steps_engine, steps_bare, steps_alone = (min(fastest[name]) for name in ("engine", "bare", "conditional"))
        return {
            "pairs": len(whole),
            "engine_to_bare": spread(whole),
            "conditional_step_to_full": spread(share),
            "fastest_engine_to_bare": steps_engine / steps_bare,
            "fastest_conditional_to_full": steps_alone / steps_engine,
        }


def spread(values: list[float]) -> list[float]:
    """Median, and the range of the middle half."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return [statistics.median(values), low, high]


def show(result: dict[str, Any], steps: int) -> None:
    """A table on standard output."""
    print(f"\n{result['model']}, batch {result['batch']}, {steps} steps")
    print(f"{'':44s}{'s/picture':>10s}{'evals':>7s}{'to plain':>10s}{'middle half':>14s}{'SSIM':>7s}{'PSNR':>7s}")
    for row in result["rows"]:
        if row["broken"]:
            print(f"{row['name']:44s}  does not run: {row['broken']}")
            continue
        (ratio, low, high), psnr = row["ratio"], "same" if row["psnr"] is None else f"{row['psnr']:.1f}"
        print(
            f"{row['name']:44s}{row['seconds']:10.4f}{row['evaluations']:7.1f}{ratio:10.3f}"
            f"{f'{low:.3f}-{high:.3f}':>14s}{row['ssim']:7.3f}{psnr:>7s}"
        )
    print(f"{result['pairs']} pairs; the last number is fastest step of all to fastest step of all")
    for key, best, text in (
        ("engine_to_bare", "fastest_engine_to_bare", "engine with plain guidance to bare pipeline"),
        ("conditional_step_to_full", "fastest_conditional_to_full", "a conditional step to a full one"),
    ):
        ratio, low, high = result[key]
        print(f"{text:44s}{ratio:8.3f} (middle half {low:.3f}-{high:.3f}), {result[best]:.3f}", flush=True)


if __name__ == "__main__":
    main()
