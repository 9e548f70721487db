"""diffguide stats: the reference statistics of images, mean and covariance in float64, for diffguide evaluate.

    diffguide stats photos/ --output photos.npz
    diffguide stats photos/ --extractor dinov2 --output photos-dinov2.npz

pytorch-fid, clean-fid and EDM read the file too. It also says which network, weights and resize it is of.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffguide.pipelines.arguments import add_command
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.files import check_file

from .networks import Networks, check_extractor
from .options import add_network_options, add_reading_options, make_networks
from .references import REFERENCES, load_reference

if TYPE_CHECKING:
    from .statistics import Statistics


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = add_command(commands, "stats", "reference statistics of images", __doc__, run)
    parser.add_argument(
        "images", metavar="IMAGES", help="folder, .zip, .tar, .npz, or the name of an embedded set: emoji"
    )
    parser.add_argument("--output", "-o", required=True, metavar="NPZ", help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    add_network_options(parser, "whose features are summed up")
    add_reading_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Compute, write and print; 0. UserError for a mistake of the user."""
    if args.images not in REFERENCES and not Path(args.images).expanduser().exists():
        raise UserError(f"there is no folder or file {args.images!r}")
    network = args.extractor or "inception"
    check_extractor(network, None, args.resize)
    output = Path(args.output).expanduser()
    if output.suffix != ".npz":
        raise UserError(f"the output must be an .npz file, not {args.output!r}")
    check_file(output, "the statistics", "--output", args.overwrite)
    networks = make_networks(args)

    from .images import summary
    from .sources import open_images
    from .statistics import save_statistics

    embedded = args.images in REFERENCES
    images = load_reference(args.images) if embedded else open_images(args.images, args.convert, args.skip_bad)
    statistics = image_statistics(images, network, networks=networks, batch_size=args.batch_size)
    save_statistics(output, statistics)
    skipped = summary(images.bad)
    if args.json:
        names = ("n", "extractor", "weights_hash", "resize")
        record = {name: getattr(statistics, name) for name in names}
        print(json.dumps({"path": args.output, **record, "skipped": skipped}, indent=2))
    else:
        print(f"{args.output}: {statistics.describe()}" + (f" (left out: {skipped})" if skipped else ""))
    return 0


def image_statistics(
    images: Any,
    extractor: str = "inception",
    *,
    networks: Networks | None = None,
    batch_size: int = 32,
    convert: bool = False,
    skip_bad: bool = False,
) -> Statistics:
    """Mean and covariance of the features of images, for `evaluate_images(..., reference=statistics)`.

    Args:
        images, convert, skip_bad: see `sources.open_images`.
        extractor: which network, as `features.load_extractor` calls it.
        networks: its resize, checkpoint or model, device and dtype; None: its own.
        batch_size: images a step.

    Raises:
        UserError: bad images, fewer than two, or a network that is not there.

    >>> save_statistics("photos.npz", image_statistics("photos/"))
    """
    from .passes import progress_bar, run_pass
    from .sources import open_images

    source = open_images(images, convert, skip_bad)
    source.check_enough("a covariance", 2)
    networks = networks or Networks()
    extractor = networks.named(extractor)
    network = networks.load_one(extractor)
    with progress_bar(source.count, "images") as bar:
        done = run_pass(source, {extractor: network}, keep=False, batch_size=batch_size, progress=bar.update)
    return done.moments[extractor].statistics(network.name, network.weights_hash, network.resize)
