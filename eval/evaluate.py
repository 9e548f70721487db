"""diffguide evaluate: images measured, by themselves and against a reference.

    diffguide evaluate generated/ --reference photos/
    diffguide evaluate samples.zip --reference reference.npz --metrics fid saturation --json
    diffguide evaluate emoji/ --reference emoji --prompts prompts.txt

IMAGES is a folder, a .zip or .tar (captions in .txt files beside the images), or an .npz with arr_0. Which network,
resize and count a number comes from stands beside it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffguide.pipelines.arguments import argument, check_count
from diffguide.pipelines.devices import check_device, check_dtype
from diffguide.pipelines.errors import UserError, one_line

from .metrics import METRICS, check_metrics
from .networks import NETWORKS, check_extractor

if TYPE_CHECKING:
    from .evaluation import Evaluation, Networks

MAX_PROMPTS = 2**26  # bytes of a prompt file


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = commands.add_parser(
        "evaluate",
        help="measure images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
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
    add("--prompts", metavar="FILE", help="one a line, UTF-8, in the order of the images' names")
    add("--baseline", metavar="IMAGES", help="for ssim: images to compare with, one by one")
    add("--reward", metavar="CLIP", help="for reward: hub id or folder of a CLIP model whose cosine is the reward")
    add_network_options(parser)
    add("--json", action="store_true", help="one JSON object on standard output")


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """What `evaluate` and `stats` have in common."""
    add = parser.add_argument
    add("--extractor", metavar="NETWORK", help=f"{', '.join(NETWORKS)}, clip:ID, dinov2:ID (default inception)")
    add("--resize", metavar="NAME", help="for inception: torch-fidelity (default), pytorch-fid or clean")
    add("--inception", metavar="PATH", help="a checkpoint of Inception-2015-12-05: .pth or TorchScript")
    add("--clip", metavar="ID|FOLDER", help="the CLIP model of cmmd and clip_score (default: the embedded emoji-clip)")
    add("--dinov2", metavar="ID|FOLDER", help="the model of fd_dinov2 (default facebook/dinov2-large)")
    add("--batch-size", type=argument(check_count), default=32, metavar="N", help="images a step (default 32)")
    add("--device", type=argument(check_device), help="cpu, cuda, cuda:1, mps, xpu (default: CUDA where there is one)")
    add("--dtype", type=argument(check_dtype), help="of the networks (default float32, at parity with other tools)")
    add("--convert", action="store_true", help="take transparent (on white), gray, CMYK, 16-bit, mixed-size images too")
    add("--skip-bad", action="store_true", help="leave out images that cannot be used, and say how many")


def make_networks(args: argparse.Namespace) -> Networks:
    """The networks that the options ask for. UserError: an option that does not fit. Imports torch."""
    if args.extractor:
        check_extractor(args.extractor)
    if args.resize:
        check_extractor("inception", None, args.resize)
    if args.inception and not Path(args.inception).expanduser().is_file():
        raise UserError(f"there is no file {args.inception!r} with Inception weights")
    from .evaluation import Networks

    names = ("extractor", "resize", "inception", "clip", "dinov2", "device", "dtype")
    return Networks(**{name: getattr(args, name) for name in names})


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0. UserError for a mistake of the user."""
    for path in filter(None, (args.images, args.baseline)):
        if not Path(path).expanduser().exists():
            raise UserError(f"there is no folder or file {path!r}")
    prompts = read_prompts(args.prompts) if args.prompts else None
    networks = make_networks(args)
    from .evaluation import evaluate_images

    found = evaluate_images(
        args.images,
        args.reference,
        args.metrics,
        prompts=prompts,
        baseline=args.baseline,
        reward=_clip_reward(args) if args.reward else None,
        networks=networks,
        batch_size=args.batch_size,
        convert=args.convert,
        skip_bad=args.skip_bad,
    )
    print(json.dumps(asdict(found), indent=2) if args.json else table(found))
    return 0


def read_prompts(path: str) -> list[str]:
    """The lines of a prompt file that are not blank. UserError: it cannot be read, is no text, or holds none."""
    try:
        if Path(path).stat().st_size > MAX_PROMPTS:
            raise UserError(f"the prompt file {path!r} is larger than {MAX_PROMPTS} bytes")
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the prompt file {path!r}: {error.strerror or one_line(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the prompt file {path!r} is not UTF-8 text") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"the prompt file {path!r} holds no prompt")
    return prompts


def table(found: Evaluation) -> str:
    """The scores, one a line, with what they depend on; then the notes."""
    lines = [f"{found.images}: {found.n} images" + (f" (left out: {found.skipped})" if found.skipped else "")]
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


def _clip_reward(args: argparse.Namespace) -> Any:
    """The cosine between image and prompt of a CLIP model."""
    from torch.nn.functional import cosine_similarity

    from .features import load_extractor

    clip: Any = load_extractor("clip", args.reward, args.device)

    def reward(images: Any, prompts: Any) -> Any:
        if prompts is None or len(prompts) < len(images):
            raise UserError("this reward needs prompts: --prompts FILE, or texts beside the images")
        return cosine_similarity(clip(images), clip.embed_text(prompts))

    return reward
