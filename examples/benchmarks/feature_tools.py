"""The other tools that give Inception features: their own reading, resizing and network, with our weights in it."""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffguide.eval.inception_layers import LAYERS
from diffguide.eval.inception_weights import find_inception, read_state

warnings.filterwarnings("ignore")  # of these tools
Extract = Callable[[Path], np.ndarray]


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
