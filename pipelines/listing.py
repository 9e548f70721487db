"""diffguide list: what there is to choose from."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .arguments import add_command
from .embedded import EMBEDDED
from .rewards import ALIASES, REWARDS
from .rule_names import MODIFIERS, NATIVE, RULES
from .rules import rule_options
from .schedulers import SCHEDULERS
from .spelling import format_value


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = add_command(commands, "list", "what there is to choose from", __doc__, run)
    parser.add_argument("section", nargs="?", metavar="SECTION", choices=list(SECTIONS), help=", ".join(SECTIONS))
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Print one section, or all of them."""
    chosen = {args.section: SECTIONS[args.section]} if args.section else SECTIONS
    records = {name: make() for name, make in chosen.items()}
    if args.json:
        print(json.dumps(records, indent=2))
        return 0
    for name, rows in records.items():
        print(f"{name}:")
        for row in rows:
            print(_LINES[name](row))
    return 0


def add_section(name: str, rows: Callable[[], list[dict[str, Any]]], line: Callable[[dict[str, Any]], str]) -> None:
    """A further section of the list, for packages that build on this one: its records, and each of them as text."""
    SECTIONS[name], _LINES[name] = rows, line


def rules() -> list[dict[str, Any]]:
    """All rules and what goes around them: name, class, paper, summary, the defaults of their options. Imports torch.

    modifier: whether it is written after a rule and a plus; alone: whether it also does without one.
    """
    rows = []
    for name, rule in (RULES | MODIFIERS).items():
        options = rule_options(name).values()
        defaults = {o.name: None if o.default is inspect.Parameter.empty else o.default for o in options}
        required = [o.name for o in options if o.default is inspect.Parameter.empty]
        row = {"name": name, **asdict(rule), "options": defaults, "required": required}
        rows.append(row | {"modifier": name in MODIFIERS})
    native = {"class_name": "", "paper": "", "summary": "the pipeline's own guidance, untouched", "alone": True}
    return [*rows, {"name": NATIVE[0], **native, "options": {}, "required": [], "modifier": False}]


def models() -> list[dict[str, Any]]:
    """The embedded models: name, class, description, the size of all their parts in bytes, the defaults of generate."""
    rows = []
    for name, model in EMBEDDED.items():
        size = sum(path.stat().st_size for path in model.files())
        row = {"name": name, "class_name": model.class_name, "description": model.description, "bytes": size}
        if model.denoiser:
            row |= {"guidance": model.guidance, "guidance_scale": model.guidance_scale, "steps": model.steps}
        rows.append(row)
    return rows


def schedulers() -> list[dict[str, Any]]:
    """The names of schedulers: class, what is set in its configuration, the models it samples."""
    return [{"name": name, **asdict(row)} for name, row in SCHEDULERS.items()]


def rewards() -> list[dict[str, Any]]:
    """The rewards: name, aliases, what each is, where its weights come from and what it needs."""
    aliases = {name: [alias for alias, its in ALIASES.items() if its == name] for name in REWARDS}
    return [{"name": name, "aliases": aliases[name], **asdict(row)} for name, row in REWARDS.items()]


def pipelines() -> list[dict[str, Any]]:
    """The pipeline classes: how each evaluates its denoiser, whether a test runs it, why it is refused."""
    from .table import TABLE
    from .table_tested import TESTED

    return [
        {
            "class_name": name,
            "layout": "" if layout.refused else layout.description,
            "tested": name in TESTED,
            "refused": layout.refused,
        }
        for layout in TABLE
        for name in layout.classes
    ]


SECTIONS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "rules": rules,
    "models": models,
    "schedulers": schedulers,
    "rewards": rewards,
    "pipelines": pipelines,
}


def _rule_line(row: dict[str, Any]) -> str:
    shown = row["options"] | dict.fromkeys(row["required"], "...")
    options = [f"{key}={format_value(value)}" for key, value in shown.items()]
    details = [f"arXiv {row['paper']}"] * bool(row["paper"]) + [", ".join(options)] * bool(options)
    name = "+" * row["modifier"] + row["name"]
    return "\n".join([f"  {name:<18}{row['summary']}", *(f"  {'':<18}{detail}" for detail in details)])


def _model_line(row: dict[str, Any]) -> str:
    return f"  {row['name']:<18}{row['description']} ({row['class_name']}, {row['bytes'] / 1e6:.1f} MB)"


def _scheduler_line(row: dict[str, Any]) -> str:
    kinds = " and ".join(kind for kind in ("diffusion", "flow") if row[kind])
    return f"  {row['name']:<18}{row['class_name']} ({kinds})"


def _reward_line(row: dict[str, Any]) -> str:
    traits = [
        "prompts" if row["needs_prompts"] else "no prompts",
        "gradient" if row["differentiable"] else "no gradient",
    ]
    source = f"weights: {row['weights']}" + f"; pip install {row['install']}" * bool(row["install"])
    paper = f"; arXiv {row['paper']}" * bool(row["paper"])
    also = f" (also: {', '.join(row['aliases'])})" * bool(row["aliases"])
    return f"  {row['name']:<18}{row['description']}{also}\n  {'':<18}{', '.join(traits)}; {source}{paper}"


def _pipeline_line(row: dict[str, Any]) -> str:
    details = f"refused: {row['refused']}" if row["refused"] else row["layout"]
    return f"  {row['class_name']:<48}{details}{'' if row['tested'] or row['refused'] else ' (by family)'}"


_LINES: dict[str, Callable[[dict[str, Any]], str]] = {
    "rules": _rule_line,
    "models": _model_line,
    "schedulers": _scheduler_line,
    "rewards": _reward_line,
    "pipelines": _pipeline_line,
}
