"""diffguide compare: which rule, at which scale, with how many evaluations, is better on a model, and how sure that is.

    diffguide compare --guidance cfg apg ag --guidance-scale 2 4 8 --num-images 512 --output runs/demo
    accelerate launch --num_processes 2 -m diffguide.eval.compare --guidance cfg apg --output runs/demo

Every rule is sampled at every scale and number of steps from the same seeds and prompts; the first rule is the one that
the others are compared with. The folder holds images, measurements, results.csv, results.json and report.html. A run
that was stopped goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from diffguide.pipelines.arguments import argument, check_count, check_scale, check_seed, check_side, check_steps
from diffguide.pipelines.arguments import check_text as checked_text
from diffguide.pipelines.devices import check_device, check_dtype
from diffguide.pipelines.embedded import EMBEDDED
from diffguide.pipelines.errors import UserError, unknown
from diffguide.pipelines.loading import model_kind
from diffguide.pipelines.request import DEFAULT_MODEL, read_prompts
from diffguide.pipelines.rules import RULES, split_guidance
from diffguide.pipelines.schedulers import check_scheduler

from .columns import CHOICES, COLUMNS
from .grid import check_folder, clear_folder, run_plan
from .measures import distances
from .networks import check_extractor
from .plan import KEEP, NETWORKS, Plan, grid, shuffled
from .processes import Processes
from .store import Store, locked, plain

EMOJI = "emoji"
"""The reference set of the embedded models."""


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = commands.add_parser(
        "compare",
        help="sample and measure rules on the same seeds and prompts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    add = parser.add_argument
    rules = ", ".join([*RULES, "native"])
    rule, name = argument(_checked_rule), argument(check_scheduler)
    add("--guidance", nargs="+", required=True, type=rule, metavar="RULE[:OPTION=VALUE,...]", help=rules)
    add("--guidance-scale", nargs="+", type=argument(check_scale), metavar="W", help="default: the model's own")
    add("--num-inference-steps", "--steps", dest="steps", nargs="+", type=argument(check_steps), metavar="N")
    add("--scheduler", nargs="+", type=name, metavar="NAME", help="see `diffguide list schedulers`")
    add("--model", "-m", default=DEFAULT_MODEL, help="embedded name, diffusers folder, .safetensors file or hub id")
    add("--num-images", type=argument(check_count), default=512, metavar="N", help="of each cell (default 512)")
    add("--prompt-file", metavar="FILE", help="one prompt a line, repeated if short (default: the emoji captions)")
    add("--negative-prompt", type=argument(checked_text), metavar="TEXT", help="what not to draw")
    add("--seed-start", type=argument(check_seed), default=0, metavar="K", help="image k has seed K + k (default 0)")
    add("--batch-size", type=argument(check_count), default=8, metavar="N", help="images made together (default 8)")
    add(
        "--reference",
        metavar="IMAGES|STATS.npz|emoji",
        help="for fid and the like (embedded models: emoji)",
    )
    add("--metrics", nargs="+", type=argument(_checked_metric), metavar="METRIC", help=", ".join(CHOICES))
    add("--extractor", metavar="NETWORK", help="of kid, precision and recall (default inception)")
    add("--resize", metavar="NAME", help="for inception: torch-fidelity (default), pytorch-fid or clean")
    add("--inception", metavar="PATH", help="a checkpoint of Inception-2015-12-05: .pth or TorchScript")
    add("--clip", metavar="ID|FOLDER", help="the CLIP model of cmmd and clip_score (default: the embedded emoji-clip)")
    add("--dinov2", metavar="ID|FOLDER", help="the model of fd_dinov2 (default facebook/dinov2-large)")
    add("--keep", choices=KEEP, default="png", metavar="png|webp|none", help="what becomes of images (default png)")
    add("--height", type=argument(check_side), metavar="PIXELS", help="a multiple of 8")
    add("--width", type=argument(check_side), metavar="PIXELS", help="a multiple of 8")
    add("--dtype", type=argument(check_dtype), default="auto", help="float32, float16, bfloat16, auto (default)")
    add("--device", type=argument(check_device), default="auto", help="cpu, cuda, cuda:1, mps, xpu, auto (default)")
    add("--output", "-o", required=True, metavar="FOLDER", help="of this run, or of one to go on with")
    add("--overwrite", action="store_true", help="begin anew where the folder holds another comparison")
    add("--json", action="store_true", help="the results as one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Run a comparison to its end; 0. UserError for a mistake of the user."""
    plan, folder = make_plan(args), Path(args.output)
    if args.overwrite and Processes.rank() == 0:
        clear_folder(folder)
    if not args.overwrite or Processes.rank() == 0:
        check_folder(folder, plan)
    if Processes.rank() > 0:
        return _compare(plan, folder, args.json)
    with locked(folder):
        return _compare(plan, folder, args.json)


def make_plan(args: argparse.Namespace) -> Plan:
    """The plan of a parsed command line. UserError for whatever cannot be right. Imports no torch."""
    from .references import REFERENCES, reference_captions

    model_kind(args.model)
    row = EMBEDDED.get(args.model)
    reference = args.reference or (EMOJI if row else None)
    metrics = args.metrics or _usual(row is not None, reference is not None)
    needed = distances(metrics)
    if needed and reference is None:
        raise UserError(f"{needed[0]} needs a --reference: images, a statistics file, or {', '.join(REFERENCES)}")
    if reference is not None and reference not in REFERENCES and not Path(reference).expanduser().exists():
        known = ", ".join(REFERENCES)
        raise UserError(f"there is no reference {reference!r}: give images, a statistics file, or {known}")
    for network, weights in ((args.extractor or "inception", None), ("inception", args.inception)):
        check_extractor(network, weights, args.resize if network == "inception" else None)
    if args.prompt_file is None and row is None:
        raise UserError("give the prompts with --prompt-file: only embedded models have some of their own")
    prompts = read_prompts(Path(args.prompt_file)) if args.prompt_file else shuffled(reference_captions(EMOJI))
    given = ("num_images", "prompt_file", "seed_start", "batch_size", "keep", "negative_prompt", "height", "width")
    given += (*NETWORKS, "device", "dtype")
    return Plan(
        model=args.model,
        cells=grid(
            args.guidance,
            args.guidance_scale or [row.guidance_scale if row else 7.5],
            args.steps or [row.steps if row else 25],
            args.scheduler or [None],
        ),
        prompts=tuple(prompts[: args.num_images]),
        reference=reference if needed else None,
        metrics=tuple(name for name in COLUMNS if name in metrics),
        **{name: getattr(args, name) for name in given},
    )


def compare(plan: Plan, folder: str | Path, processes: Processes | None = None) -> dict[str, Any]:
    """Sample, measure and report a plan; the results, as in results.json. UserError as the command.

    processes: None: this one, or those that `accelerate launch` started, where all but the main one return {}.
    """
    from diffguide.pipelines.loading import load_pipeline

    from .measures import load_networks, make_measures, measure_reference
    from .report import write_report
    from .results import compute_results, write_results
    from .sampler import rule_of

    for cell in plan.cells:
        rule_of(cell)  # a mistake in an option should not cost the loading of a model
    processes = processes or Processes(plan.device)
    device = processes.device(plan.device)
    extractors, clip = load_networks(plan, device)
    references = measure_reference(plan, extractors, device) if processes.main else {}
    pipe = load_pipeline(plan.model, dtype=plan.dtype, device=device, progress_bar=False)
    store = run_plan(plan, folder, pipe, make_measures(plan.metrics, extractors, clip), extractors, processes)
    results: dict[str, Any] = {}
    if processes.main:
        where = str(pipe._execution_device)
        results = compute_results(store, references, where if where.startswith("cuda") else "cpu")
        write_results(store, results)
        write_report(store.folder)
    processes.wait()
    return results


def _compare(plan: Plan, folder: Path, as_json: bool) -> int:
    results = compare(plan, folder)
    if not results:
        return 0
    if as_json:
        print(json.dumps(plain(results), indent=1))
        return 0
    from .summary import summary

    timing = Store(folder, plan).seconds()
    print(summary(results, {cell: median(times) for cell, times in timing.items() if times}))
    print(folder / "report.html")
    return 0


def _checked_rule(spec: str) -> str:
    split_guidance(spec)
    return spec


def _checked_metric(name: str) -> str:
    if name not in CHOICES:
        raise unknown("metric", name, CHOICES)
    return name


def _usual(embedded: bool, reference: bool) -> list[str]:
    pixels = ["clipping", "saturation", "contrast"]
    return ["fid"] * reference + ["clip_score"] * embedded + pixels


if __name__ == "__main__":
    from diffguide.eval.cli import main

    sys.exit(main(["compare", *sys.argv[1:]]))
