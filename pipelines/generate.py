"""diffguide generate: pictures from prompts, each with the settings to make it again.

    diffguide generate "red apple" --guidance apg --guidance-scale 10 --seeds 0-15 --output apples.png
    diffguide generate --from-image apples/red-apple-3.png --guidance cfg --output compare.png

Paths of what was written go to standard output, all else to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_command, argument, check_seed, check_seeds, check_text
from .calibrated import rule_on
from .options import add_picture_options, add_sampling_options
from .output import Output, plan_output
from .request import Request, make_request
from .rule_names import MODIFIERS, NATIVE, RULES
from .spelling import check_guidance
from .traces import kept_traces, plan_traces

if TYPE_CHECKING:
    from PIL.Image import Image

    from .metadata import Settings
    from .sampling import Picture

SHEET_LIMIT = 400  # pictures
SHEET_COLUMNS = 8


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = add_command(commands, "generate", "make pictures from prompts", __doc__, run)
    add = parser.add_argument
    add("prompt", nargs="?", type=argument(check_text), metavar="PROMPT", help="what to draw, in quotes")
    add("--prompt-file", metavar="FILE", help="one prompt a line, UTF-8")
    add("--from-image", metavar="PNG", help="settings of a picture made by diffguide; other options override them")
    add("--model", "-m", help="embedded name, diffusers folder, .safetensors file or hub id (default emoji-sd)")
    rules = ", ".join([*RULES, NATIVE[0]])
    add(
        "--guidance",
        type=argument(check_guidance),
        metavar="RULE[:OPTION=VALUE,...][+...]",
        help=f"{rules} (the pipeline's own); after a rule, each with a plus: {', '.join(MODIFIERS)}; reward also "
        "alone; default: cfg for emoji-sd and emoji-flow, else native; see `diffguide list rules`",
    )
    add_sampling_options(parser, batch_size=1)
    add_picture_options(parser)
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=argument(check_seed), metavar="K", help="default 0")
    seeds.add_argument("--seeds", type=argument(check_seeds), metavar="K-L,...", help="several, such as 0-15,20")
    add("--output", "-o", metavar="PNG|FOLDER", help="default: named after the prompt, in the current folder")
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--trace", metavar="JSON", help="a file for what guidance did at each step of each picture")
    add("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Make the pictures; 0, or 130 after an interruption. UserError for a mistake of the user."""
    request = make_request(args)
    output = plan_output(request.jobs, args.output, args.overwrite)
    traces = plan_traces(args.trace, request.guidance, args.overwrite)
    with output.held():
        return _generate(request, output, traces, args.json)


def _generate(request: Request, output: Output, traces: Path | None, as_json: bool) -> int:
    """As `run`, once all is checked that can be without torch."""
    jobs = request.jobs
    from .loading import load_pipeline
    from .sampling import make_rule, sample

    # a mistake in it should not cost the loading of a model
    rule_on(request.model, request.guidance, request.guidance_scale, request.steps, request.scheduler)
    terminal = sys.stderr.isatty()
    pipe = load_pipeline(
        request.model,
        dtype=request.dtype,
        device=request.device,
        scheduler=request.scheduler,
        cpu_offload=request.cpu_offload,
        progress_bar=terminal and len(jobs) <= request.batch_size,
    )
    from tqdm import tqdm

    from .metadata import save_png

    entries: list[dict[str, Any]] = []
    images: list[Image] = []  # for the contact sheet; of thousands of pictures they would fill the memory
    has_sheet = output.sheet is not None and len(jobs) <= SHEET_LIMIT
    bar = tqdm(
        total=len(jobs), unit="picture", file=sys.stderr, disable=not terminal or len(jobs) <= request.batch_size
    )
    try:
        with bar, kept_traces(traces) as keep_trace:
            for picture, path in zip(sample(pipe, make_rule(request, pipe), request), output.pictures):
                save_png(picture.image, path, picture.settings)
                keep_trace(picture, path)
                entries.append(_entry(picture, path))
                if has_sheet:
                    images.append(picture.image)
                bar.update()
            sheet = _save_sheet(images, picture.settings.guidance_scale, request, output)
    except KeyboardInterrupt:
        print(f"diffguide: interrupted, {len(entries)} of {len(jobs)} pictures are finished", file=sys.stderr)
        return 130
    _report(entries, picture.settings, sheet, traces, as_json)
    return 0


def _save_sheet(images: list[Image], scale: float | None, request: Request, output: Output) -> str | None:
    """Prompts down, seeds across; the seeds of a single prompt in rows of eight. Its path, None for no sheet."""
    from .metadata import save_png
    from .sheet import contact_sheet, in_rows

    if output.sheet is None:
        return None
    if not images:
        print(f"diffguide: no contact sheet of more than {SHEET_LIMIT} pictures", file=sys.stderr)
        return None
    title = request.guidance if scale is None else f"{request.guidance}, scale {scale:g}"
    seeds = [f"seed {seed}" for seed in request.seeds]
    if len(request.prompts) == 1:
        rows, captions = in_rows(images, SHEET_COLUMNS), in_rows(seeds, SHEET_COLUMNS)
        sheet = contact_sheet(rows, captions=captions, title=f"{request.prompts[0]}  ({title})")
    else:
        sheet = contact_sheet(in_rows(images, len(seeds)), request.prompts, seeds, title=title)
    save_png(sheet, output.sheet, sheet=True)
    return str(output.sheet)


def _entry(picture: Picture, path: Path) -> dict[str, Any]:
    return {
        "path": str(path),
        "prompt": picture.settings.prompt,
        "seed": picture.settings.seed,
        "seconds": round(picture.seconds, 3),
        "evaluations": picture.settings.evaluations,
    }


def _report(
    entries: list[dict[str, Any]], settings: Settings, sheet: str | None, traces: Path | None, as_json: bool
) -> None:
    """What was made. settings: of any of the pictures."""
    if as_json:
        shared = {name: value for name, value in asdict(settings).items() if name not in entries[0]}
        named = {"sheet": sheet, "trace": None if traces is None else str(traces)}
        print(json.dumps({"images": entries, **named, "settings": shared}, indent=2))
        return
    for entry in entries:
        print(entry["path"])
    for path in (sheet, traces):
        if path:
            print(path)
    seconds = sum(entry["seconds"] for entry in entries) / len(entries)
    counts = [entry["evaluations"] for entry in entries]
    evaluations = "" if None in counts else f", {sum(counts) / len(counts):g} evaluations"
    print(f"diffguide: {seconds:.2f} s{evaluations} per picture", file=sys.stderr)
