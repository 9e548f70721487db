"""Speed and agreement of feature extraction: diffguide against torch-fidelity, pytorch-fid and clean-fid.

    pip install torch-fidelity pytorch-fid clean-fid 'diffguide[fid]'
    python examples/benchmarks/evaluation.py --images generated --reference photos --threads 2

All tools read the same files with the same weights on the same threads, in one process. Each round runs every tool
once, in an order that rotates; a tool's speed is the median over rounds, and ratios are medians of the ratios within
a round, so that what else the machine does falls on all alike. The processor's seconds, of all threads, stand beside
those of the clock: on a machine that others use they say more. FID is of each tool's own features, beside
diffguide's at that tool's resize.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffguide.eval import Networks, evaluate_images, load_extractor, open_images, run_pass
from diffguide.eval.inception_layers import LAYERS
from diffguide.eval.inception_weights import find_inception, read_state

warnings.filterwarnings("ignore")  # of the other tools
Extract = Callable[[Path], np.ndarray]


def main() -> None:
    """Print one row per tool, and everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True, help="a second folder, for FID")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="loader processes of the other tools")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inception", help="a checkpoint; default: the installed weights")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)

    tools = {"diffguide": ours(args), **others(args)}
    count = len(open_images(args.images).source.images)
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    busy: dict[str, list[float]] = {name: [] for name in tools}
    features: dict[str, np.ndarray] = {}
    for index in range(args.rounds + 1):  # the first round warms up
        names = list(tools)
        for name in names[index % len(names) :] + names[: index % len(names)]:
            start, busy_before = time.perf_counter(), time.process_time()
            features[name] = tools[name](args.images)
            if index:
                seconds[name].append(time.perf_counter() - start)
                busy[name].append(time.process_time() - busy_before)
            assert features[name].shape == (count, 2048), (name, features[name].shape)

    speeds = {name: count / statistics.median(values) for name, values in seconds.items()}
    print(f"{count} images, {args.threads} threads; images per second:", speeds, flush=True)
    report = []
    for name, values in seconds.items():
        row = {"tool": name, "images_per_second": speeds[name], "processor_ms": 1000 * min(busy[name]) / count}
        row["diffguide_is_faster_by"] = ratio(values, seconds["diffguide"])
        row["and_on_the_processor_by"] = ratio(busy[name], busy["diffguide"])
        if name != "diffguide":
            theirs = fid(features[name], tools[name](args.reference))
            resize = {"torch-fidelity": "torch-fidelity", "pytorch-fid": "pytorch-fid", "clean-fid": "clean"}[name]
            networks = Networks(resize=resize, inception=args.inception)
            mine = evaluate_images(args.images, args.reference, ["fid"], networks=networks)["fid"]
            row |= {"fid": theirs, "fid_of_diffguide": mine, "relative_difference": abs(mine / theirs - 1)}
        report.append(row)
        print(
            "  ".join(f"{key} {value:.6g}" if isinstance(value, float) else value for key, value in row.items()),
            flush=True,
        )
    print(json.dumps({"images": count, "threads": args.threads, "batch_size": args.batch_size, "tools": report}))


def ratio(theirs: list[float], mine: list[float]) -> float:
    """The median of the ratios within the rounds."""
    return statistics.median(other / own for other, own in zip(theirs, mine))


def ours(args: argparse.Namespace) -> Extract:
    """diffguide's features at torch-fidelity's resize."""
    extractor = load_extractor("inception", args.inception, device="cpu")
    return lambda folder: (
        run_pass(open_images(folder), {"inception": extractor}, batch_size=args.batch_size)
        .features["inception"]
        .numpy()
    )


def others(args: argparse.Namespace) -> dict[str, Extract]:
    """The tools that are installed, each with its own reading, resizing and network, with our weights in it."""
    path = find_inception(args.inception)
    state = read_state(path)
    found: dict[str, Extract] = {}
    for name, make in (("torch-fidelity", torch_fidelity), ("pytorch-fid", pytorch_fid), ("clean-fid", clean_fid)):
        try:
            found[name] = make(args, checkpoint(state), path)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found


def checkpoint(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under torch-fidelity's and pytorch-fid's names."""
    if "Conv2d_1a_3x3.conv.weight" in state:
        return dict(state)
    prefix = next(key[: -len("conv.weight")] for key in state if key.endswith("layers.conv.weight"))
    named = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    for ours, theirs in LAYERS.items():
        beta = state[f"{prefix}{theirs}.beta"]
        named[f"{ours}.conv.weight"] = state[f"{prefix}{theirs}.weight"]
        named[f"{ours}.bn.weight"], named[f"{ours}.bn.bias"] = torch.ones_like(beta), beta
        named[f"{ours}.bn.running_mean"] = state[f"{prefix}{theirs}.mean"]
        named[f"{ours}.bn.running_var"] = state[f"{prefix}{theirs}.var"]
        named[f"{ours}.bn.num_batches_tracked"] = torch.tensor(0)
    return named


def torch_fidelity(args: argparse.Namespace, weights: dict[str, Tensor], path: Path) -> Extract:
    """Its extractor and its loop over files."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.utils import extract_featuresdict_from_input_id

    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save({key: value for key, value in weights.items() if "tracked" not in key}, file.name)
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=file.name)
    options = {"batch_size": args.batch_size, "cuda": False, "verbose": False, "cache": False}
    options["num_workers"] = args.workers
    return lambda folder: extract_featuresdict_from_input_id(
        1, network, input1=str(folder), samples_find_deep=True, **options
    )["2048"].numpy()


def pytorch_fid(args: argparse.Namespace, weights: dict[str, Tensor], path: Path) -> Extract:
    """Its network and its loop over files."""
    from pytorch_fid import fid_score, inception

    inception.load_state_dict_from_url = lambda *_, **__: weights
    network = inception.InceptionV3([3]).eval()
    return lambda folder: fid_score.get_activations(
        sorted(folder.rglob("*.png")), network, args.batch_size, 2048, "cpu", args.workers
    )


def clean_fid(args: argparse.Namespace, weights: dict[str, Tensor], path: Path) -> Extract:
    """Its loop, with its resize, around the TorchScript network that it downloads."""
    from cleanfid import fid, inception_torchscript

    script = torch.jit.load(path).eval()
    layers = script.net.layers if hasattr(script, "net") else script.layers
    network = inception_torchscript.InceptionV3W.__new__(inception_torchscript.InceptionV3W)
    torch.nn.Module.__init__(network)
    network.layers, network.resize_inside = layers, False
    options = {
        "num_workers": args.workers,
        "batch_size": args.batch_size,
        "device": torch.device("cpu"),
        "verbose": False,
    }
    return lambda folder: fid.get_files_features(
        sorted(map(str, folder.rglob("*.png"))), network, mode="clean", **options
    )


def fid(features: np.ndarray, reference: np.ndarray) -> float:
    """From the features themselves: the trace of the root of A B is the sum of the singular values of X Y'."""
    means = [x.mean(0, dtype=np.float64) for x in (features, reference)]
    x, y = ((side - mean) / np.sqrt(len(side) - 1) for side, mean in zip((features, reference), means))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(((means[0] - means[1]) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * root)


if __name__ == "__main__":
    main()
