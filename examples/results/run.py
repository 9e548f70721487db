"""Measure the papers' claims: all images of docs/results.md, and results.json, of which page.py makes the page.

    python examples/results/run.py --output runs/results
    torchrun --nproc_per_node 2 examples/results/run.py --output runs/results
    python examples/results/page.py runs/results

Needs `pip install "diffguide[fid,plot]"`. Goes on where it was stopped when the same command is given again, and from
few images to more. Each comparison is a folder of its own, OUTPUT/PART, as `diffguide compare` makes them, with its
report.html; several claims share one where they can.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from claims import CLAIMS, PARTS
from contrasts import seconds, with_interval
from plans import Part

from diffguide.eval.comparison import compare
from diffguide.eval.files import read_arrays, read_json, write_json
from diffguide.eval.grid import PER_IMAGE, check_folder
from diffguide.eval.growth import plan_of
from diffguide.eval.plan import Plan
from diffguide.eval.processes import Processes
from diffguide.pipelines.errors import UserError, one_line


def main(argv: list[str] | None = None) -> int:
    """Run the claims that are asked for; the exit status, 2 for a mistake of the user."""
    args = arguments(argv)
    wanted = {part for name in args.only for part in CLAIMS[name].parts}
    options = {name: getattr(args, name) for name in ("batch_size", "device", "extractor", "reference")}
    done: dict[str, Any] = {}
    try:
        for name in (name for name in PARTS if name in wanted):
            done[name] = run_part(PARTS[name], args.output / name, done, args.num_images, **options)
        if not Processes.rank():
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
    add("--num-images", type=int, default=2048, help="of each cell (default 2048), at least")
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


def run_part(part: Part, folder: Path, done: dict[str, Any], num_images: int, **options: Any) -> dict[str, Any]:
    """The results of a comparison, from its folder if it is finished there.

    What is there already stays: more images, and cells that another choice of scales asked for. UserError as `compare`.
    """
    there = plan_of(folder)
    if there is None:
        plan = part.plan(done, num_images, **options)
    else:
        plan = part.plan(done, max(num_images, there.num_images), **options)
        plan = replace(plan, cells=tuple(dict.fromkeys([*there.cells, *plan.cells])))
    check_folder(folder, plan)
    return finished(folder, plan) or compare(plan, folder) or read_json(folder / "results.json")


def finished(folder: Path, plan: Plan) -> dict[str, Any] | None:
    """The results in a folder if they are of all images and cells of a plan, else None."""
    if not (folder / "report.html").is_file():
        return None
    results = read_json(folder / "results.json")
    return results if (results["n"], len(results["cells"])) == (plan.num_images, len(plan.cells)) else None


def collect(output: Path) -> None:
    """Write results.json: the comparisons that are finished, and what the claims about them say.

    A claim whose cells were chosen by a comparison that has grown since, and now asks for others, is left out, which is
    said.
    """
    plans = {name: plan for name in PARTS if (plan := plan_of(output / name))}
    found = {name: finished(output / name, plan) for name, plan in plans.items()}
    parts = {name: results for name, results in found.items() if results}
    for name, results in parts.items():
        results |= {"seconds": seconds(output / name, plans[name]), "run": command(plans[name], name)}
    per_image = {name: read_arrays(output / name / PER_IMAGE) or {} for name in parts}
    claims = {}
    for name, claim in CLAIMS.items():
        if not set(claim.parts) <= set(parts):
            continue
        try:
            said = claim.statements(parts)
        except UserError as error:
            print(f"run.py: {name} is left out: {error}: run it again with --only {name}", file=sys.stderr)
            continue
        claims[name] = {"statements": [with_interval(its, parts[its.part], per_image[its.part]) for its in said]}
    write_json(output / "results.json", {"format": 1, "parts": parts, "claims": claims})


def command(plan: Plan, part: str) -> str:
    """The command line that made a part, and those that it needs."""
    only = min((name for name, claim in CLAIMS.items() if part in claim.parts), key=lambda its: len(CLAIMS[its].parts))
    words = ["python examples/results/run.py", f"--only {only}"]
    for name in ("num_images", "batch_size", "extractor", "reference", "device"):
        words.append(f"--{name.replace('_', '-')} {getattr(plan, name)}")
    return " ".join([*words, "--output runs/results"])


if __name__ == "__main__":
    sys.exit(main())
