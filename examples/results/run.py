"""Measure the papers' claims: all images of docs/results.md, and results.json, of which page.py makes the page.

    python examples/results/run.py --output runs/results
    torchrun --nproc_per_node 2 examples/results/run.py --output runs/results
    python examples/results/page.py runs/results

Needs `pip install "diffguide[fid,plot]"`. Goes on where it was stopped when the same command is given again, and from
few images to more. Each comparison is a folder of its own, OUTPUT/PART, as `diffguide compare` makes them, with its
report.html; several claims share one where they can. A claim at every rule's best scale can have these scales from a
page, in place of hours in which they are found:

    python examples/results/run.py --output runs/results --only front --tuned docs/results.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from claims import CLAIMS, PARTS, TUNING
from contrasts import seconds, with_interval
from kept import read_results
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
        tuned = {TUNING: read_results(args.tuned, TUNING)} if args.tuned else {}
        done |= tuned
        for name in (name for name in PARTS if name in wanted - tuned.keys()):
            done[name] = run_part(PARTS[name], args.output / name, done, args.num_images, **options)
        if not Processes.rank():
            collect(args.output, tuned)
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
    add("--tuned", type=Path, metavar="PAGE", help="a page that page.py wrote, to take the best scales from")
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


def collect(output: Path, tuned: Mapping[str, Any]) -> None:
    """Write results.json: the comparisons that are finished, and what the claims about them say.

    tuned: comparisons that are on a page and decide about scales, for claims where they are not in `output`. A claim
    whose cells were chosen by a comparison that has grown since, and now asks for others, is left out, which is said.
    """
    plans = {name: plan for name in PARTS if (plan := plan_of(output / name))}
    found = {name: finished(output / name, plan) for name, plan in plans.items()}
    parts = {name: results for name, results in found.items() if results}
    missing = {name: results for name, results in tuned.items() if name not in parts}
    for name, results in parts.items():
        results |= {"seconds": seconds(output / name, plans[name]), "run": command(plans[name], name, missing)}
    known = {**missing, **parts}
    per_image = {name: read_arrays(output / name / PER_IMAGE) or {} for name in parts}
    claims = {}
    for name, claim in CLAIMS.items():
        if not set(claim.parts) <= set(known):
            continue
        try:
            said = claim.statements(known)
        except UserError as error:
            print(f"run.py: {name} is left out: {error}: run it again with --only {name}", file=sys.stderr)
            continue
        if all(its.part in parts for its in said):
            claims[name] = {"statements": [with_interval(its, parts[its.part], per_image[its.part]) for its in said]}
    write_json(output / "results.json", {"format": 1, "parts": parts, "claims": claims, "tuned": missing})


def command(plan: Plan, part: str, tuned: Mapping[str, Any]) -> str:
    """The command line that made a part, and those that it needs. tuned: those that were read from a page instead."""
    only = min((name for name, claim in CLAIMS.items() if part in claim.parts), key=lambda its: len(CLAIMS[its].parts))
    words = ["python examples/results/run.py", f"--only {only}"]
    for name in ("num_images", "batch_size", "extractor", "reference", "device"):
        words.append(f"--{name.replace('_', '-')} {getattr(plan, name)}")
    words += [f"--tuned {its['page']}" for name, its in tuned.items() if name in CLAIMS[only].parts and name != part]
    return " ".join([*words, "--output runs/results"])


if __name__ == "__main__":
    sys.exit(main())
