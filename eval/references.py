"""Reference sets that ship in the package, and the cache of what was computed from them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from diffguide.pipelines.errors import UserError, nearest

from .files import write_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .images import Images

DATA = Path(__file__).parent / "data"
REFERENCES = {"emoji": "3,786 emoji with captions, 64 x 64 on white (Noto Emoji, Apache-2.0)"}
"""Name -> what it is."""


def no_reference(name: str) -> UserError:
    """The error for what is neither on the disk nor an embedded set."""
    guess = nearest(name, REFERENCES)
    hint = f"did you mean '{guess}'? " if guess else ""
    return UserError(
        f"there is no reference {name!r}: {hint}give images, a statistics file, or one of {', '.join(REFERENCES)}"
    )


def load_reference(name: str) -> Images:
    """The images of an embedded set, with their captions. UserError: no such set, or its files are missing."""
    from .images import Images

    captions = reference_captions(name)
    return Images(f"reference {name!r}", _Sheet(name), len(captions))


def reference_captions(name: str) -> list[str]:
    """The captions of an embedded set, in the order of its images. UserError as `load_reference`."""
    return _description(name)["captions"]


@cache
def _description(name: str) -> dict:
    try:
        return json.loads((DATA / name / "captions.json").read_text(encoding="utf-8"))
    except OSError as error:
        known = f"choose from {', '.join(REFERENCES)}" if name not in REFERENCES else "install diffguide again"
        raise UserError(f"there is no embedded reference {name!r}: {known}") from error


class _Sheet:
    """The tiles of a sheet, one by one."""

    def __init__(self, name: str):
        self.name = name

    def __iter__(self) -> Iterator[tuple[str, Tensor, str]]:
        from PIL import Image

        from .decode import pixels_of

        about = _description(self.name)
        side, columns = about["side"], about["columns"]
        with Image.open(DATA / self.name / "sheet.webp") as sheet:
            pixels = pixels_of(sheet)  # (3, rows * side, columns * side)
        for index, caption in enumerate(about["captions"]):
            y, x = side * (index // columns), side * (index % columns)
            yield f"{self.name}[{index}]", pixels[:, y : y + side, x : x + side].contiguous(), caption


def cache_folder() -> Path:
    """Where features of the embedded sets are kept: XDG_CACHE_HOME or the platform's own place, below it diffguide."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "diffguide"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "diffguide" / "Cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "diffguide"


def cached_features(
    name: str, extractor: str, weights_hash: str, resize: str, dtype: torch.dtype
) -> tuple[Path, Tensor | None]:
    """The file for the features of an embedded set, and the features where it holds them, (n, d) float32.

    dtype: in which the network runs.
    """
    import torch

    from .npz import Npz

    network = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in extractor)
    precision = "" if dtype == torch.float32 else f"-{str(dtype).removeprefix('torch.')}"
    path = cache_folder() / f"{name}-{network}-{weights_hash}-{resize}{precision}.npz"
    if not path.is_file():
        return path, None
    try:
        with Npz(path) as file:
            features = torch.from_numpy(file.read("features", limit=2**30).copy())
    except (UserError, KeyError):  # damaged: made again
        return path, None
    fits = features.ndim == 2 and len(features) == len(reference_captions(name)) and features.isfinite().all()
    return path, features if fits else None


def keep_features(path: Path, features: Tensor) -> None:
    """Write what `cached_features` reads, whole or not at all; a cache that cannot be written is no error."""
    from io import BytesIO

    import numpy as np

    content = BytesIO()
    np.savez(content, features=features.numpy())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content.getvalue())
    except (OSError, UserError) as error:
        print(f"diffguide: cannot keep the reference's features ({error})", file=sys.stderr)
