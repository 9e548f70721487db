"""The names of rewards: `clip`, `pickscore`, `hpsv2:FILE`, a CLIP model's folder or id, `package.module:function`.

Importing this module imports no torch.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import embedded
from .devices import resolve_device, resolve_dtype
from .errors import UserError, one_line, unknown
from .quiet import quiet, told_to_stay_offline

if TYPE_CHECKING:
    import torch

    from diffguide.guidance import Reward


@dataclass(frozen=True)
class RewardRow:
    """One row of the table. weights: where they come from. install: what pip must install besides, "" for nothing."""

    description: str
    paper: str
    needs_prompts: bool
    weights: str
    install: str = ""
    differentiable: bool = True


REWARDS: dict[str, RewardRow] = {
    **{
        name: RewardRow(f"cosine of image and prompt; {model.description}", "2103.00020", True, "embedded")
        for name, model in embedded.EMBEDDED.items()
        if model.class_name == "CLIPModel"
    },
    "pickscore": RewardRow(
        "PickScore v1, a CLIP ViT-H/14 trained on people's choices; its cosine",
        "2305.01569",
        True,
        "yuvalkirstain/PickScore_v1",
    ),
    "hpsv2": RewardRow(
        "HPSv2.1, a CLIP ViT-H/14 trained on people's choices; its cosine",
        "2306.09341",
        True,
        "xswu/HPSv2, or hpsv2:FILE of HPS_v2.1_compressed.pt",
        "open_clip_torch",
    ),
    "imagereward": RewardRow(
        "ImageReward v1.0, BLIP trained on people's rankings; about 0 with deviation 1",
        "2304.05977",
        True,
        "THUDM/ImageReward, or imagereward:FOLDER of ImageReward.pt and med_config.json",
        "image-reward",
    ),
    "aesthetic": RewardRow(
        "LAION's aesthetic predictor, a head on CLIP's image embedding; about 1 to 10",
        "",
        False,
        "shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE, or aesthetic:ID_OR_FOLDER",
        "simple-aesthetics-predictor",
    ),
}
"""Name -> what it is. Every embedded CLIP model is one of them."""

_ALIASES = {"clip": "emoji-clip", "judge": "emoji-judge"}
ALIASES = {alias: name for alias, name in _ALIASES.items() if name in REWARDS}
"""Short names of embedded ones."""

_PICKSCORE_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # as PickScore's model card has it


class Named(NamedTuple):
    """What a name asks for: a `row` of REWARDS and its weights, or a "callable" or "model" and where that is."""

    row: str
    source: str


def check_reward(name: str) -> str:
    """`name`, if it can be a reward. Imports nothing, and reaches for no network. UserError: it cannot."""
    parse_reward(name)
    return name


def parse_reward(name: str) -> Named:
    """What `name` asks for. Imports nothing, and reaches for no network. UserError: it can be no reward."""
    head, colon, rest = name.partition(":")
    row = ALIASES.get(head, head)
    if row in REWARDS:
        if colon and not rest:
            raise UserError(f"reward {name!r} names no weights after the colon")
        if rest and head != "clip" and REWARDS[row].weights == "embedded":
            raise UserError(f"reward {head!r} has one set of weights: write {head}, not {name!r}")
        if rest and REWARDS[row].weights == "embedded":
            return Named("model", _checked_source(rest))
        return Named(row, rest)
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", head) and rest.isidentifier():
        return Named("callable", name)
    return Named("model", _checked_source(name))


def is_own_reward(name: str) -> bool:
    """Whether `name` is a row of REWARDS with the weights that the row names. UserError: it can be no reward."""
    named = parse_reward(name)
    return named.row in REWARDS and not named.source


def _checked_source(name: str) -> str:
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise UserError(f"folder {name!r} is not a CLIP model: it has no config.json")
            return str(path)
    except OSError as error:
        raise UserError(f"cannot read {name[:80]!r}: {error.strerror}") from error
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return name
    if "/" in name or name.startswith((".", "~")):
        raise UserError(f"{name!r} is neither a folder nor the name of a model on the hub (owner/name)")
    raise unknown("reward", name, [*ALIASES, *REWARDS])


def load_reward(
    reward: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Reward:
    """A reward, ready to be called: images (B, 3, H, W) in [0, 1] and B prompts -> (B,).

    Args:
        reward: a name of REWARDS or ALIASES; one with weights of one's own ("hpsv2:FILE", "pickscore:FOLDER"); a CLIP
            model of transformers, by its folder or hub id ("clip:ID" is the same); or "package.module:function", a
            Python callable or Reward, also of the current folder.
        device: as in `load_pipeline`.
        dtype: of the weights; None and "auto": float32.

    Raises:
        UserError: an unknown name, a library that is not installed (with what to install), or weights that are not
            there or do not fit.
    """
    named = parse_reward(os.fspath(reward))
    where = resolve_device(device)
    options: dict[str, Any] = {"device": where}
    options["dtype"] = resolve_dtype("float32" if dtype in (None, "auto") else dtype, where, True)
    if named.row == "callable":
        return _callable(named.source)
    local = named.row in embedded.EMBEDDED or Path(named.source or " ").expanduser().exists()
    with quiet(progress_bars=not local):
        return _load(named, options)


def _load(named: Named, options: dict[str, Any]) -> Reward:
    if named.row in embedded.EMBEDDED:
        folder = embedded.MODELS / named.row
        if not folder.is_dir():
            raise UserError(f"reward {named.row!r} is not complete, its files are missing: install diffguide again")
        return _clip(folder, name=named.row, **options)
    if named.row == "model":
        return _clip(named.source, **options)
    if named.row == "pickscore":
        processor = None if named.source else _PICKSCORE_PROCESSOR
        source = _checked_source(named.source) if named.source else REWARDS["pickscore"].weights
        return _clip(source, processor=processor, name="pickscore", **options)
    libraries = import_module(".rewards_libraries", __package__)
    load: Callable[..., Reward] = getattr(libraries, f"load_{named.row}")
    return load(named.source, **options)


def _clip(source: str | Path, **options: Any) -> Reward:
    from diffguide.guidance import ClipReward

    local = Path(source).expanduser().is_dir() or told_to_stay_offline()
    try:
        return ClipReward.from_pretrained(source, local_files_only=local, **options)
    except ValueError as error:
        raise UserError(one_line(error)) from error


def _callable(name: str) -> Reward:
    from diffguide.guidance import as_reward

    module, _, function = name.partition(":")
    if "" not in sys.path:  # the current folder, where an installed command does not look
        sys.path.append("")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"cannot import the reward {name!r}: {one_line(error)}") from error
    try:
        return as_reward(found)
    except ValueError as error:
        raise UserError(f"{name!r} is no reward: {one_line(error)}") from error
