"""Options that several commands have: which networks, and how images are read. Imports no torch."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from diffguide.pipelines.arguments import argument, check_count
from diffguide.pipelines.devices import check_device, check_dtype
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.rewards import check_reward

from .networks import NETWORKS, Networks, check_extractor


def add_network_options(parser: argparse.ArgumentParser, of: str = "of KID, precision and recall") -> None:
    """Which networks are used: the fields of `networks.Networks`, and those that `check_networks` takes.

    of: what the extractor is for, as its help says it.
    """
    add = parser.add_argument
    names = f"{', '.join(NETWORKS)}, clip:ID, dinov2:ID"
    add("--extractor", metavar="NETWORK", help=f"{names}, {of} (default inception)")
    add("--resize", metavar="NAME", help="for inception: torch-fidelity (default), pytorch-fid or clean")
    add("--inception", metavar="PATH", help="a checkpoint of Inception-2015-12-05: .pth or TorchScript")
    add("--clip", metavar="ID|FOLDER", help="the CLIP model of cmmd and clip_score (default: the embedded emoji-clip)")
    add("--dinov2", metavar="ID|FOLDER", help="the model of fd_dinov2 (default facebook/dinov2-large)")
    add("--device", type=argument(check_device), default="auto", help="cpu, cuda, cuda:1, mps, xpu, auto (default)")


def add_reward_option(parser: argparse.ArgumentParser) -> None:
    """What the metric `reward` is."""
    parser.add_argument(
        "--reward",
        type=argument(check_reward),
        metavar="REWARD",
        help="for reward: a name of `list rewards`, a CLIP model, module:function",
    )


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """How images on the disk are read, and the dtype of the networks that look at them."""
    add = parser.add_argument
    add("--batch-size", type=argument(check_count), default=32, metavar="N", help="images a step (default 32)")
    add("--dtype", type=argument(check_dtype), help="of the networks (default float32, at parity with other tools)")
    add_image_options(parser)


def add_image_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """What becomes of images that are not all 8-bit RGB of one size: the fields of `images.Images`."""
    add = parser.add_argument
    taken = "take transparent (on white), gray, CMYK, 16-bit, mixed-size images too; none is turned as its EXIF says"
    add("--convert", action="store_true", help=taken)
    add("--skip-bad", action="store_true", help="leave out images that cannot be used, and say how many")


def check_networks(extractor: str | None, inception: str | None, resize: str | None) -> None:
    """UserError: no such extractor or resize, or no such file."""
    if extractor:
        check_extractor(extractor)
    check_extractor("inception", None, resize)
    if inception and not Path(inception).expanduser().is_file():
        raise UserError(f"there is no file {inception!r} with Inception weights")


def make_networks(args: argparse.Namespace) -> Networks:
    """The networks that the options ask for. UserError as `check_networks`."""
    check_networks(args.extractor, args.inception, args.resize)
    given: dict[str, Any] = {entry.name: getattr(args, entry.name, None) for entry in fields(Networks)}
    return Networks(**given)
