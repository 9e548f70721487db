"""The tables of evaluations.py, and the medians in them."""

from __future__ import annotations

import random
import statistics
from typing import Any

CLAIMS = {
    "engine_to_bare": "engine, plain guidance, to bare pipeline: whole runs, processor",
    "engine_to_bare_wall": "    the same, wall",
    "engine_to_bare_outside": "    by the difference outside of the denoiser: whole runs",
    "engine_step_to_bare": "    a step",
    "step_ms": "    milliseconds a step",
    "setup_ms": "    milliseconds a call, beside its steps",
    "conditional_step_to_full": "a conditional step to a full one, of the engine: processor",
    "conditional_step_to_full_wall": "    the same, wall",
    "conditional_denoiser_to_full": "    the denoiser alone: processor",
}


def interval(values: list[float], draws: int = 4000) -> list[float]:
    """Median, and its 95 % interval by bootstrap."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return [statistics.median(values), medians[int(0.025 * draws)], medians[int(0.975 * draws)]]


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
    print(f"{result['pairs']} rounds of runs of {result['short_steps']} steps: median and its 95 % interval")
    for key, text in CLAIMS.items():
        middle, low, high = result[key]
        print(f"{text:62s}{middle:8.3f} ({low:.3f} to {high:.3f})", flush=True)
