"""diffguide compare: which rule, at which scale, with how many evaluations, is better on a model, and how sure that is.

    diffguide compare --guidance cfg apg ag --guidance-scale 2 4 8 --num-images 512 --output runs/demo
    accelerate launch --num_processes 2 -m diffguide.eval.compare --guidance cfg apg --output runs/demo   # on two GPUs
    torchrun --nproc_per_node 2 -m diffguide.eval.compare --guidance cfg apg --output runs/demo           # on two cores

Every rule is sampled at every scale and number of steps from the same seeds and prompts; the first rule is the one that
the others are compared with. The folder holds images, measurements, results.csv, results.json, per_image.npz and
report.html. A run that was stopped goes on where it stopped when the same command is given again, and a finished one
when more is asked for: images, rules, scales or steps.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from diffguide.pipelines.arguments import (
    add_command,
    argument,
    check_count,
    check_scale,
    check_seed,
    check_side,
    check_steps,
    check_text,
)
from diffguide.pipelines.devices import check_dtype
from diffguide.pipelines.request import DEFAULT_MODEL
from diffguide.pipelines.rule_names import MODIFIERS, RULES
from diffguide.pipelines.schedulers import check_scheduler
from diffguide.pipelines.spelling import check_guidance

from .columns import CHOICES, check_column
from .comparison import compare, make_plan
from .files import plain
from .options import add_image_options, add_network_options, add_reward_option
from .plan import KEEP, NETWORK_OPTIONS
from .store import Store

OPTIONS: tuple[str, ...]
OPTIONS = ("guidance", "guidance_scale", "steps", "scheduler", "model", "num_images", "prompt_file", "negative_prompt")
OPTIONS += ("seed_start", "batch_size", "keep", "height", "width", "reference", "convert", "skip_bad", "metrics")
OPTIONS += (*NETWORK_OPTIONS, "device", "dtype")


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = add_command(commands, "compare", "sample and measure rules on the same seeds and prompts", __doc__, run)
    add = parser.add_argument
    rules = f"{', '.join([*RULES, 'native'])}; with what goes around them after a plus: {', '.join(MODIFIERS)}"
    scales, steps = (f"default: the embedded model's, else {number}" for number in ("7.5", "25"))
    scale, count = argument(check_scale), argument(check_steps)
    rule, name = argument(check_guidance), argument(check_scheduler)
    add("--guidance", nargs="+", required=True, type=rule, metavar="RULE[:OPTION=VALUE,...][+...]", help=rules)
    add("--guidance-scale", nargs="+", type=scale, metavar="W", help=scales)
    add("--num-inference-steps", "--steps", dest="steps", nargs="+", type=count, metavar="N", help=steps)
    add("--scheduler", nargs="+", type=name, metavar="NAME", help="see `diffguide list schedulers`")
    add("--model", "-m", default=DEFAULT_MODEL, help="embedded name, folder, .safetensors file or hub id (emoji-sd)")
    add("--num-images", type=argument(check_count), default=512, metavar="N", help="of each cell (default 512)")
    add("--prompt-file", metavar="FILE", help="one prompt a line, repeated if short (default: the emoji captions)")
    add("--negative-prompt", type=argument(check_text), metavar="TEXT", help="what not to draw")
    add("--seed-start", type=argument(check_seed), default=0, metavar="K", help="image k has seed K + k (default 0)")
    add("--batch-size", type=argument(check_count), default=8, metavar="N", help="images made together (default 8)")
    add(
        "--reference",
        metavar="IMAGES|STATS.npz|emoji",
        help="for fid and the like (embedded models: emoji)",
    )
    add_image_options(parser.add_argument_group("images of the reference"))
    add("--metrics", nargs="+", type=argument(check_column), metavar="METRIC", help=", ".join(CHOICES))
    add_network_options(parser)
    add_reward_option(parser)
    add("--keep", choices=KEEP, default="png", metavar="png|webp|none", help="what becomes of images (default png)")
    add("--height", type=argument(check_side), metavar="PIXELS", help="a multiple of 8")
    add("--width", type=argument(check_side), metavar="PIXELS", help="a multiple of 8")
    add("--dtype", type=argument(check_dtype), default="auto", help="float32, float16, bfloat16, auto (default)")
    add("--output", "-o", required=True, metavar="FOLDER", help="of this run, or of one to go on with")
    add("--overwrite", action="store_true", help="begin anew where the folder holds another comparison")
    add("--json", action="store_true", help="the results as one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Run a comparison to its end; 0. UserError for a mistake of the user."""
    plan, folder = make_plan(**{name: getattr(args, name) for name in OPTIONS}), Path(args.output).expanduser()
    results = compare(plan, folder, args.overwrite)
    if not results:
        return 0
    if args.json:
        print(json.dumps(plain(results), indent=1))
        return 0
    from .summary import summary

    timing = Store(folder, plan).seconds()
    print(summary(results, {cell: median(times) for cell, times in timing.items() if times}))
    print(folder / "report.html")
    return 0


if __name__ == "__main__":
    from diffguide.eval.cli import main

    sys.exit(main(["compare", *sys.argv[1:]]))
