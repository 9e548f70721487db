"""diffguide evaluate: images measured, by themselves and against a reference.

    diffguide evaluate generated/ --reference photos/
    diffguide evaluate samples.zip --reference reference.npz --metrics fid saturation --json
    diffguide evaluate emoji/ --reference emoji --prompts prompts.txt

IMAGES is a folder with all below it, links followed, a .zip or .tar (captions in .txt files beside the images), or an
.npz with arr_0. Which network, resize and count a number comes from stands beside it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffguide.pipelines.arguments import add_command, argument
from diffguide.pipelines.errors import UserError, amount
from diffguide.pipelines.request import read_prompts

from .metrics import METRICS, check_metrics
from .options import add_network_options, add_reading_options, add_reward_option, make_networks
from .references import REFERENCES, no_reference

if TYPE_CHECKING:
    from .evaluation import Evaluation


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = add_command(commands, "evaluate", "measure images", __doc__, run)
    add = parser.add_argument
    add("images", metavar="IMAGES", help="folder, .zip, .tar, .npz")
    add("--reference", metavar="IMAGES|STATS.npz|emoji", help="what to measure against")
    add(
        "--metrics",
        nargs="+",
        type=argument(lambda name: check_metrics([name])[0]),
        metavar="METRIC",
        help=f"{', '.join(METRICS)}; default: those that need nothing more; see `diffguide list metrics`",
    )
    add(
        "--prompt-file",
        "--prompts",
        dest="prompts",
        metavar="FILE",
        help="one a line, UTF-8, in the order of the images' names",
    )
    add("--baseline", metavar="IMAGES", help="for ssim: images to compare with, one by one")
    add_reward_option(parser)
    add_network_options(parser)
    add_reading_options(parser)
    add("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0. UserError for a mistake of the user."""
    for path in filter(None, (args.images, args.baseline)):
        if not Path(path).expanduser().exists():
            raise UserError(f"there is no folder or file {path!r}")
    if args.reference and args.reference not in REFERENCES and not Path(args.reference).expanduser().exists():
        raise no_reference(args.reference)
    prompts = read_prompts(Path(args.prompts), repeats=True) if args.prompts else None
    networks = make_networks(args)
    from .evaluation import evaluate_images

    found = evaluate_images(
        args.images,
        args.reference,
        args.metrics,
        prompts=prompts,
        baseline=args.baseline,
        networks=networks,
        batch_size=args.batch_size,
        convert=args.convert,
        skip_bad=args.skip_bad,
    )
    print(json.dumps(asdict(found), indent=2) if args.json else table(found))
    return 0


def table(found: Evaluation) -> str:
    """The scores, one a line, with what they depend on; then the notes."""
    lines = [f"{found.images}: {amount(found.n, 'image')}" + (f" (left out: {found.skipped})" if found.skipped else "")]
    if found.reference:
        lines.append(f"reference: {found.reference}")
    for score in found.scores:
        value = f"{score.value:.5g}" + ("" if score.spread is None else f" ± {score.spread:.2g}")
        better = f"{score.better} is better" if score.better else ""
        network = f"{score.network} {score.weights_hash}, resize {score.resize}, " if score.network else ""
        against = f" against {score.reference_n}" if score.reference_n else ""
        lines.append(f"  {score.metric:<16}{value:<20}{better:<18}{network}n = {score.n}{against}")
    definitions = [f"  {score.metric}: {score.definition}" for score in found.scores]
    return "\n".join([*lines, "", *definitions, *(f"  note: {note}" for note in found.notes)])
