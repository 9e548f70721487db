"""Options that the commands which sample pictures have in common. Imports no torch."""

from __future__ import annotations

import argparse

from .arguments import argument, check_count, check_scale, check_side, check_steps, check_text
from .devices import check_device, check_dtype
from .schedulers import check_scheduler


def add_sampling_options(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """How a model is sampled, one value of each. batch_size: how many pictures are made together by default."""
    add = parser.add_argument
    add("--guidance-scale", type=argument(check_scale), metavar="W", help="1 is conditional only; default: the model's")
    steps = argument(check_steps)
    add("--num-inference-steps", "--steps", dest="steps", type=steps, metavar="N", help="default: the model's")
    add("--scheduler", type=argument(check_scheduler), metavar="NAME", help="see `diffguide list schedulers`")
    together = f"pictures made together (default {batch_size})"
    add("--batch-size", type=argument(check_count), default=batch_size, metavar="N", help=together)
    add("--dtype", type=argument(check_dtype), help="float32, float16, bfloat16, auto (default: by device and model)")
    add("--device", type=argument(check_device), help="cpu, cuda, cuda:1, mps, xpu (default: CUDA where there is one)")


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """What pictures are besides their prompt, and a model that is larger than the GPU."""
    add = parser.add_argument
    add("--negative-prompt", type=argument(check_text), metavar="TEXT", help="what not to draw")
    add("--height", type=argument(check_side), metavar="PIXELS", help="a multiple of 8")
    add("--width", type=argument(check_side), metavar="PIXELS", help="a multiple of 8")
    add("--cpu-offload", action="store_true", help="keep on the GPU only what is at work")
