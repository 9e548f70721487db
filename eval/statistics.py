"""Mean and covariance of features: summed up in one pass, saved, loaded, and refused where they do not fit.

A statistics file is an npz with `mu` (d,) and `sigma` (d, d) in float64, which pytorch-fid, clean-fid and EDM read too,
and a JSON block `diffguide` that says what they are of. Files of those tools have no such block.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffguide.pipelines.errors import UserError

from .files import write_file
from .npz import Npz

MAX_DIM = 16384  # 2 GiB of covariance
MAX_BLOCK = 100_000  # characters of JSON


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of the features of n images, and how they came about; None: the file does not say.

    mu: (d,) float64 on the CPU. sigma: (d, d) float64, normalised by n - 1. extractor: the network. weights_hash: of
    its weights. resize: how images were brought to its size.
    """

    mu: Tensor
    sigma: Tensor
    n: int | None = None
    extractor: str | None = None
    weights_hash: str | None = None
    resize: str | None = None

    def __post_init__(self) -> None:
        if not (self.mu.isfinite().all() and self.sigma.isfinite().all()):
            raise UserError("the statistics hold values that are not finite (NaN or infinite features)")

    @property
    def rank(self) -> int:
        """The rank that sigma can have at most: d, or n - 1 where that is less."""
        return min(len(self.mu), len(self.mu) if self.n is None else self.n - 1)

    def describe(self) -> str:
        """Network, resize and count in a few words."""
        network = self.extractor or "unknown network"
        weights = f" (weights {self.weights_hash})" if self.weights_hash else ""
        return f"{network}{weights}, resize {self.resize or 'unknown'}, {self.n or 'unknown number of'} images"


class Moments:
    """Mean and covariance summed up in float64 over batches of features, by the pairwise rule of Chan et al. (1979).

    No cancellation, however far the mean is from 0; equal for all batch sizes to about 1e-13. Memory: d^2 numbers.
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean = torch.zeros(())
        self._scatter = torch.zeros(())  # (d, d), the sum of (x - mean)(x - mean)^T

    def update(self, features: Tensor) -> None:
        """Take in features (N, d). ValueError: another shape. They stay on their device, where that has float64."""
        if features.ndim != 2 or (self.n and features.shape[1] != len(self._mean)):
            raise ValueError(f"features must be (N, {len(self._mean) if self.n else 'd'}), not {tuple(features.shape)}")
        x = features.detach().to("cpu" if features.device.type == "mps" else features.device).double()
        if not len(x):
            return
        mean = x.mean(0)
        x = x - mean
        scatter = x.T @ x
        if not self.n:
            self.n, self._mean, self._scatter = len(x), mean, scatter
            return
        total, delta = self.n + len(x), mean.to(self._mean.device) - self._mean
        self._scatter += scatter.to(self._mean.device)
        self._scatter.addr_(delta, delta, alpha=self.n * len(x) / total)
        self._mean = self._mean + delta * (len(x) / total)
        self.n = total

    @property
    def mean(self) -> Tensor:
        """(d,) float64."""
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """(d, d) float64, unbiased: normalised by n - 1. UserError: fewer than two images."""
        if self.n < 2:
            raise UserError(f"a covariance needs 2 images at least, not {self.n}")
        return self._scatter / (self.n - 1)

    def statistics(
        self, extractor: str | None = None, weights_hash: str | None = None, resize: str | None = None
    ) -> Statistics:
        """What was summed up, with what it is of. UserError: fewer than two images, or features that are not finite."""
        covariance = self.covariance
        if not (self._mean.isfinite().all() and covariance.isfinite().all()):
            raise UserError(f"{extractor or 'the network'} gave features that are not finite (NaN or infinite)")
        return Statistics(self._mean.cpu(), covariance.cpu(), self.n, extractor, weights_hash, resize)


def save_statistics(path: str | os.PathLike[str], statistics: Statistics) -> None:
    """Write an npz file, whole or not at all. UserError: it cannot be written."""
    names = ("n", "extractor", "weights_hash", "resize")
    block = json.dumps({"format": 1, **{name: getattr(statistics, name) for name in names}})
    content = BytesIO()
    np.savez(content, mu=statistics.mu.numpy(), sigma=statistics.sigma.numpy(), diffguide=np.array(block))
    write_file(Path(path), content.getvalue())


def load_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Read a statistics file of this or another tool. Nothing in it is executed, and its sizes are checked first.

    UserError: not such a file, damaged, too large, not finite, or with arrays of other shapes.
    """
    with Npz(path) as file:
        missing = [name for name in ("mu", "sigma") if name not in file]
        if missing:
            what = (
                "a batch of images (arr_0)" if "arr_0" in file else f"an npz with {', '.join(file.names) or 'nothing'}"
            )
            raise UserError(f"{str(path)!r} holds no statistics, it is {what}: expected mu and sigma")
        (d, *rest), sigma_shape = file.shape("mu") or (0,), file.shape("sigma")
        if rest or sigma_shape != (d, d) or not 1 <= d <= MAX_DIM:
            raise UserError(
                f"{str(path)!r}: mu must be (d,) and sigma (d, d), d at most {MAX_DIM}; "
                f"they are {file.shape('mu')} and {sigma_shape}"
            )
        mu, sigma = (_float64(file, name) for name in ("mu", "sigma"))
        block = _block(file) if "diffguide" in file else {}
    scale = sigma.diagonal().abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    if (sigma - sigma.T).abs().max() > 1e-6 * scale:
        raise UserError(f"{str(path)!r}: sigma is not symmetric, so it is no covariance")
    if sigma.diagonal().min() < 0:
        raise UserError(f"{str(path)!r}: sigma has a negative variance, so it is no covariance")
    try:
        return Statistics(mu, (sigma + sigma.T) / 2, **block)
    except UserError as error:
        raise UserError(f"{str(path)!r}: {error}") from error


def check_compatible(a: Statistics, b: Statistics) -> None:
    """UserError with both sides named, if a and b are not of the same network, weights and resize, as far as known."""
    for name, what in (("extractor", "network"), ("weights_hash", "weights"), ("resize", "resize")):
        one, other = getattr(a, name), getattr(b, name)
        if one is not None and other is not None and one != other:
            raise UserError(f"the {what} differs: {a.describe()} against {b.describe()}")
    if len(a.mu) != len(b.mu):
        raise UserError(f"{len(a.mu)} features ({a.describe()}) against {len(b.mu)} ({b.describe()})")


def _float64(file: Npz, name: str) -> Tensor:
    array = file.read(name, limit=8 * MAX_DIM**2)
    if array.dtype.kind != "f":
        raise UserError(f"{str(file.path)!r}: {name} must be of a floating type, not {array.dtype}")
    return torch.from_numpy(array.astype(np.float64))


def _block(file: Npz) -> dict[str, Any]:
    array = file.read("diffguide", limit=4 * MAX_BLOCK)
    try:
        block = json.loads(str(array[()])) if array.dtype.kind == "U" and array.ndim == 0 else None
    except (ValueError, RecursionError):
        block = None
    wanted: dict[str, type] = {"n": int, "extractor": str, "weights_hash": str, "resize": str}
    if not isinstance(block, dict) or not all(isinstance(block.get(k), (t, type(None))) for k, t in wanted.items()):
        raise UserError(
            f"{str(file.path)!r}: its block `diffguide` is damaged; make the file again with diffguide stats"
        )
    if block.get("n") is not None and block["n"] < 2:
        raise UserError(f"{str(file.path)!r}: statistics of {block['n']} images")
    return {name: block.get(name) for name in wanted}
