"""Speed and agreement of feature extraction: diffguide against torch-fidelity, pytorch-fid and clean-fid.

    pip install torch-fidelity pytorch-fid clean-fid 'diffguide[fid]'
    python examples/benchmarks/evaluation.py --images generated --reference photos --threads 2

All tools read the same files with the same weights on the same threads, in one process. The files are taken in small
chunks, and every tool runs on a chunk before the next one begins, in an order that rotates: ratios are medians of the
ratios within a chunk, so that what else the machine does falls on all alike. The processor's seconds, of all threads,
stand beside those of the clock: on a machine that others use they say more (they leave out loader processes, of which
there are none by default). FID is of each tool's own features, beside diffguide's at that tool's resize.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from feature_tools import Extract, others

from diffguide.eval import Networks, evaluate_images, load_extractor, open_images, run_pass

Measured = dict[str, list]
RESIZES = {"torch-fidelity": "torch-fidelity", "pytorch-fid": "pytorch-fid", "clean-fid": "clean"}


def main() -> None:
    """Print one row per tool, and everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True, help="a second folder, for FID")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="loader processes of the other tools")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--chunk", type=int, default=32, help="files that every tool runs on before the next ones")
    parser.add_argument("--limit", type=int, default=128, help="files of each folder, the first ones by name")
    parser.add_argument("--inception", help="a checkpoint; default: the installed weights")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)

    tools = {"diffguide": ours(args), **others(args)}
    with tempfile.TemporaryDirectory() as scratch:
        sides = "images", "reference"
        images, reference = (copies(getattr(args, side), Path(scratch) / side, args) for side in sides)
        for extract in tools.values():
            extract(images[0])  # warms up
        seconds, busy, features = measure(tools, [*images, *reference])
        folders = [Path(scratch) / side for side in sides]
        report = [row(name, args, seconds, busy, features, folders, len(images)) for name in tools]
    print(json.dumps({"threads": args.threads, "batch_size": args.batch_size, "tools": report}))


def copies(folder: Path, target: Path, args: argparse.Namespace) -> list[Path]:
    """The files of a folder, in folders of `chunk` files each."""
    files = sorted(folder.rglob("*.png"))[: args.limit]
    if len(files) < 2:
        sys.exit(f"{folder} holds {len(files)} PNG files: at least 2 are needed")
    chunks = []
    for start in range(0, len(files), args.chunk):
        chunks.append(target / f"{start:06d}")
        chunks[-1].mkdir(parents=True)
        for index, file in enumerate(files[start : start + args.chunk]):
            shutil.copy(file, chunks[-1] / f"{index:06d}.png")
    return chunks


def measure(tools: dict[str, Extract], chunks: list[Path]) -> tuple[Measured, Measured, Measured]:
    """Seconds by the clock, seconds of the processor, and features, of every tool on every chunk."""
    seconds, busy, features = ({name: [] for name in tools} for _ in range(3))
    for index, chunk in enumerate(chunks):
        names = list(tools)
        for name in names[index % len(names) :] + names[: index % len(names)]:
            start, busy_before = time.perf_counter(), time.process_time()
            found = tools[name](chunk)
            seconds[name].append(time.perf_counter() - start)
            busy[name].append(time.process_time() - busy_before)
            assert found.shape == (len(list(chunk.iterdir())), 2048), (name, found.shape)
            features[name].append(found)
    return seconds, busy, features


def row(
    name: str,
    args: argparse.Namespace,
    seconds: Measured,
    busy: Measured,
    features: Measured,
    folders: list[Path],
    first: int,
) -> dict[str, float | str]:
    """What is reported of a tool, whose first `first` chunks were the images; printed, too."""
    count = [len(chunk) for chunk in features[name]]
    found: dict[str, float | str] = {"tool": name}
    found["images_per_second"] = statistics.median(n / value for n, value in zip(count, seconds[name]))
    found["processor_ms"] = statistics.median(1000 * value / n for n, value in zip(count, busy[name]))
    found["diffguide_is_faster_by"] = ratio(seconds[name], seconds["diffguide"])
    found["and_on_the_processor_by"] = ratio(busy[name], busy["diffguide"])
    if name != "diffguide":
        theirs = fid(np.concatenate(features[name][:first]), np.concatenate(features[name][first:]))
        networks = Networks(resize=RESIZES[name], inception=args.inception, device="cpu")
        mine = evaluate_images(*folders, ["fid"], networks=networks)["fid"]
        found |= {"fid": theirs, "fid_of_diffguide": mine, "relative_difference": abs(mine / theirs - 1)}
    cells = (f"{key} {value:.6g}" if isinstance(value, float) else value for key, value in found.items())
    print("  ".join(cells), flush=True)
    return found


def ratio(theirs: list[float], mine: list[float]) -> float:
    """The median of the ratios within the chunks."""
    return statistics.median(other / own for other, own in zip(theirs, mine))


def ours(args: argparse.Namespace) -> Extract:
    """diffguide's features at torch-fidelity's resize."""
    extractor = load_extractor("inception", args.inception, device="cpu")
    return lambda folder: (
        run_pass(open_images(folder), {"inception": extractor}, batch_size=args.batch_size)
        .features["inception"]
        .numpy()
    )


def fid(features: np.ndarray, reference: np.ndarray) -> float:
    """From the features themselves: the trace of the root of A B is the sum of the singular values of X Y'."""
    means = [x.mean(0, dtype=np.float64) for x in (features, reference)]
    x, y = ((side - mean) / np.sqrt(len(side) - 1) for side, mean in zip((features, reference), means))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(((means[0] - means[1]) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * root)


if __name__ == "__main__":
    main()
