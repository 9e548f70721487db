"""diffguide report: one HTML file that shows a finished comparison, opens from disk and needs no network.

diffguide report runs/demo
"""

from __future__ import annotations

import argparse
import os
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

from diffguide.pipelines.arguments import add_command
from diffguide.pipelines.errors import UserError, amount

from .files import read_json, write_file
from .plan import Plan
from .report_figures import curves, pareto, traces
from .report_sections import conclusions, differences, matched, method, values
from .report_sheets import contact_sheets
from .store import Store


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = add_command(commands, "report", "rebuild the report of a comparison", __doc__, run)
    parser.add_argument("folder", metavar="RUN", help="the output folder of `diffguide compare`")
    parser.add_argument("--seconds", action="store_true", help="with seconds per image, which no two runs have alike")


def run(args: argparse.Namespace) -> int:
    """Write the report; 0. UserError: not the folder of a finished comparison."""
    print(write_report(args.folder, args.seconds))
    return 0


def write_report(folder: str | os.PathLike[str], seconds: bool = False) -> Path:
    """Write report.html of a finished comparison; its path.

    seconds: whether it has the median of seconds per image, which makes it another file at each run. UserError: the
    folder holds no finished comparison, or a file cannot be written.
    """
    folder = Path(folder).expanduser()
    store = Store(folder, Plan.from_dict(read_json(folder / "plan.json")))
    results = read_json(folder / "results.json")
    try:
        there = results["n"], len(results["cells"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{str(folder / 'results.json')!r} is damaged: run the same `diffguide compare` again"
        ) from error
    if there != (store.plan.num_images, len(store.plan.cells)):
        raise UserError(
            f"{str(folder)!r} is to have more images or cells: run the same `diffguide compare` again first"
        )
    timing = {cell: median(times) for cell, times in store.seconds().items() if times} if seconds else None
    path = folder / "report.html"
    write_file(path, page(results, contact_sheets(store), timing).encode())
    return path


def page(results: dict[str, Any], sheets: str, seconds: dict[int, float] | None = None) -> str:
    """The whole page. results: as in results.json; sheets: HTML; seconds: per image of each cell, None for none."""
    templates = files(__package__) / "templates"
    style, script = ((templates / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    title = f"Guidance rules on {Path(results['model']).name}"
    first, last = results["seeds"]
    subtitle = (
        f"{amount(len(results['cells']), 'cell')} of {amount(results['n'], 'image')} each, seeds {first} to {last}, "
        f"{amount(results['prompts'], 'prompt')}, on {results['environment']['device']}."
    )
    effort = matched(results, "matched_evaluations", "equal evaluations")
    effort += matched(results, "matched_effective_scale", "equal effective scale")
    why = (
        "A rule that is slower, or that pushes less far along the guidance direction, is not compared fairly at an "
        "equal scale. Scores such as CLIPScore rise with the effective scale even while images burn."
    )
    sections = {
        "Values": values(results, seconds),
        "Differences": differences(results),
        "Curves against scale": curves(results),
        "Quality for evaluations": pareto(results),
        "Equal effort": f"<p>{why}</p>{effort}" if effort else "",
        "Images": sheets,
        "Step by step": traces(results),
        "How this was measured": method(results),
    }
    body = "".join(f"<section><h2>{escape(name)}</h2>\n{html}</section>\n" for name, html in sections.items() if html)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n'
        f'<body>\n<main>\n<header><h1>{escape(title)}</h1><p class="small">{escape(subtitle)}</p></header>\n'
        f"{conclusions(results)}{body}</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )
