"""Measure the papers' claims: all images of docs/results.md, and results.json, of which page.py makes the page.

    python examples/results/run.py --output runs/results
    accelerate launch --num_processes 2 examples/results/run.py --output runs/results
    python examples/results/page.py runs/results

Needs `pip install "diffguide[fid,plot]"`. Goes on where it was stopped when the same command is given again. Each
comparison is a folder of its own, OUTPUT/CLAIM/PART, as `diffguide compare` makes them, with its report.html.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from claims import CLAIMS, Claim

from diffguide.eval.comparison import compare
from diffguide.eval.files import read_json, write_json
from diffguide.eval.grid import check_folder
from diffguide.eval.plan import Plan
from diffguide.eval.processes import Processes
from diffguide.pipelines.errors import UserError, one_line


def main(argv: list[str] | None = None) -> int:
    """Run the claims that are asked for; the exit status, 2 for a mistake of the user."""
    args = arguments(argv)
    options = {name: getattr(args, name) for name in ("batch_size", "device", "extractor", "reference")}
    try:
        for name in args.only:
            record = run_claim(CLAIMS[name], args.output / name, args.num_images, **options)
            if record is not None:
                write_json(args.output / name / "claim.json", record | {"command": command(args, name)})
                collect(args.output)
    except UserError as error:
        print(f"run.py: error: {one_line(error, 1000)}", file=sys.stderr)
        return 2
    return 0


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of all comparisons")
    add("--num-images", type=int, default=2048, help="of each cell (default 2048)")
    add("--only", nargs="+", choices=CLAIMS, default=list(CLAIMS), metavar="CLAIM", help=", ".join(CLAIMS))
    add("--batch-size", type=int, default=8, help="images made together (default 8)")
    add(
        "--extractor",
        default="inception",
        help="network of precision and recall (default inception; FID always has Inception)",
    )
    add("--reference", default="emoji", help="images or statistics that FID is measured against (default emoji)")
    add("--device", default="auto", help="default: a GPU if there is one")
    return parser.parse_args(argv)


def command(args: argparse.Namespace, claim: str) -> str:
    """The command line of one claim."""
    words = ["python examples/results/run.py", f"--only {claim}"]
    for name in ("num_images", "batch_size", "extractor", "reference", "device"):
        words.append(f"--{name.replace('_', '-')} {getattr(args, name)}")
    return " ".join([*words, "--output runs/results"])


def run_claim(claim: Claim, folder: Path, num_images: int, **options: Any) -> dict[str, Any] | None:
    """The record of a claim; None in all processes but the main one.

    folder: of its parts. UserError as `compare`.
    """
    done: dict[str, Any] = {}
    plans: dict[str, Plan] = {}
    for part in claim.parts:
        plans[part.name] = part.plan(done, num_images, **options)
        done[part.name] = run_part(plans[part.name], folder / part.name)
    if Processes.rank():
        return None
    from contrasts import intervals, seconds

    statements = claim.statements(done)
    said = []
    for name, plan in plans.items():
        own = [statement for statement in statements if statement.part == name]
        said += intervals(folder / name, plan, own)
        done[name] |= {"seconds": seconds(folder / name, plan)}
    return {"parts": done, "statements": said}


def run_part(plan: Plan, folder: Path) -> dict[str, Any]:
    """The results of a comparison, from its folder if it is finished there. UserError as `compare`."""
    check_folder(folder, plan)
    if not (folder / "report.html").is_file():
        compare(plan, folder)
    return read_json(folder / "results.json")


def collect(output: Path) -> None:
    """Write results.json of all claims that are finished."""
    files = {name: output / name / "claim.json" for name in CLAIMS}
    claims = {name: read_json(file) for name, file in files.items() if file.is_file()}
    write_json(output / "results.json", {"format": 1, "claims": claims})


if __name__ == "__main__":
    sys.exit(main())
