"""What a rule costs at each step, as a multiple of plain guidance `u + w (c - u)` on the same tensors.

    python examples/benchmarks/rule_cost.py                       # all shapes, one thread
    python examples/benchmarks/rule_cost.py --shapes sdxl --dtypes float32 --batches 1 --json cost.json

Every rule of diffguide, the guiders of diffusers, and one `torch.add` on the same bytes. All take turns, each with its
own plain combination right after it, round after round; a number is the median over the rounds of the ratio of the
fastest calls of both, which other programs interrupt least. (The clock of a thread's own seconds is no help: on a
virtual machine it can err by as much as small operations take.)

On a CPU the C library is told to keep the memory that is freed. Otherwise it gives large blocks back to the system
above a threshold of its own, and whether a call pays for their page faults, which cost as much as the arithmetic,
depends on whether it has two or three latents in use. `--fresh-memory` leaves the library as it is. Before each timing
comes a call that is not timed. Memory is the peak beyond what was held before the call, in latents of float32.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from contenders import Contender, contenders
from memory_use import peak_bytes

SHAPES = {"sdxl": (4, 128, 128), "sd3": (16, 128, 128), "wan": (16, 21, 60, 104)}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc
TARGET = 3.0
"""Times the plain combination, for linear rules in float32; and two latents of memory, and a few numbers, beside the
result.
"""


def main() -> None:
    """Print a table for each shape, and the rules that miss the target."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    device, rows = torch.device(args.device), []
    if device.type == "cpu" and not args.fresh_memory and not keep_freed_memory():
        print("this C library cannot be told to keep freed memory: page faults are measured too", file=sys.stderr)
    for shape in args.shapes:
        for dtype in args.dtypes:
            for batch in args.batches:
                size = SHAPES[shape] if shape in SHAPES else tuple(map(int, shape.split("x")))
                found = measure(args, device, (batch, *size), getattr(torch, dtype))
                rows += [{"shape": shape, "dtype": dtype, "batch": batch, **row} for row in found]
                show(f"{shape} {'x'.join(map(str, size))}, {dtype}, batch {batch}", found)
    for row in rows:
        if (
            row["linear"]
            and row["dtype"] == "float32"
            and (row["ratio"] > TARGET or row["memory_beside_result"] > 2.05)
        ):
            print(
                f"over the target: {row['name']}, {row['shape']}, batch {row['batch']}: {row['ratio']:.2f}x, "
                f"{row['memory_beside_result']:.2f} latents beside the result"
            )
    if args.json:
        report = {"torch": torch.__version__, "device": str(device), "threads": args.threads, "rows": rows}
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shapes", nargs="+", default=list(SHAPES), help=f"{', '.join(SHAPES)}, or sizes such as 4x64x64")
    add("--dtypes", nargs="+", default=["float32", "bfloat16"])
    add("--batches", nargs="+", type=int, default=[1, 4])
    add("--only", nargs="+", help="parts of names; default: all")
    add("--device", default="cpu")
    add("--threads", type=int, default=1)
    add("--seconds", type=float, default=10.0, help="for each shape, dtype and batch (default 10)")
    add("--fresh-memory", action="store_true", help="let the C library give memory back (default: it keeps it)")
    add("--json", metavar="FILE")
    return parser.parse_args()


def measure(args: argparse.Namespace, device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> list[dict]:
    """A row for each contender, in interleaved rounds until the seconds are over, at least three."""
    generator = torch.Generator().manual_seed(0)
    cond, noise, latents = (torch.randn(shape, generator=generator) for _ in range(3))
    tensors = [tensor.to(device, dtype) for tensor in (cond, cond + 0.4 * noise, latents)]
    every = list(contenders(*tensors))
    plain, *_ = every
    chosen = [one for one in every if not args.only or any(part in one.name for part in [*args.only, "plain"])]
    calls = [
        (one, kind, call)
        for one in chosen
        if not one.broken
        for kind, call in (("ratio", one.run), ("ratio_traced", one.traced))
        if call is not None
    ]
    count = max(3, min(20, int(2e-3 / timed(plain.run, 3, device))))
    ratios: dict[tuple[str, str], list[float]] = {(one.name, kind): [] for one, kind, _ in calls}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in ratios}
    end, rounds = time.perf_counter() + args.seconds, 0
    while rounds < 3 or time.perf_counter() < end:
        for one, kind, call in calls:
            own, reference = timed(call, count, device), timed(plain.run, count, device)
            ratios[one.name, kind].append(own / reference)
            seconds[one.name, kind].append(own)
        rounds += 1
    numel = tensors[0][0].numel() * shape[0]
    return [row(one, ratios, seconds, numel, device, rounds) for one in chosen]


def timed(call: Callable[[], Any], count: int, device: torch.device) -> float:
    """Seconds of the fastest of `count` calls, after one that is not timed."""
    call()
    best = float("inf")
    for _ in range(count):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def keep_freed_memory() -> bool:
    """Ask the C library to keep what is freed; whether it does (glibc)."""
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_MAX, 0) and ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
    except (AttributeError, OSError, TypeError):
        return False


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def row(one: Contender, ratios: Any, seconds: Any, numel: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """What is known of one contender."""
    result: dict[str, Any] = {"name": one.name, "linear": one.linear, "broken": one.broken, "rounds": rounds}
    for kind in ("ratio", "ratio_traced"):
        values = ratios.get((one.name, kind))
        result[kind] = statistics.median(values) if values else None
    if one.broken:
        return result
    result["microseconds"] = 1e6 * statistics.median(seconds[one.name, "ratio"])
    whole = peak_bytes(one.run, device) / (4 * numel)
    output = one.run()
    result["memory"] = whole
    result["memory_beside_result"] = whole - output.numel() * output.element_size() / (4 * numel)
    return result


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """A table on standard output."""
    print(f"\n{title}; {rows[0]['rounds']} rounds")
    print(f"{'':52s}{'us':>10s}{'x plain':>9s}{'+ trace':>9s}{'memory':>8s}{'beside result':>15s}")
    for entry in rows:
        if entry["broken"]:
            print(f"{entry['name']:52s}  does not run: {entry['broken']}")
            continue
        traced = "" if entry["ratio_traced"] is None else f"{entry['ratio_traced']:.2f}"
        mark = " !" if entry["linear"] and entry["ratio"] > TARGET else ""
        print(
            f"{entry['name']:52s}{entry['microseconds']:10.1f}{entry['ratio']:9.2f}{traced:>9s}"
            f"{entry['memory']:8.2f}{entry['memory_beside_result']:15.2f}{mark}"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
