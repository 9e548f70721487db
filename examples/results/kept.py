"""What the page says already. Its sections come from comparisons of hours, made one after another on whatever machine
there was: where the runs at hand lack a claim or a comparison, its section stays as it is, and a comparison that only
decides about scales can be read from the table of its cells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffguide.eval.columns import COLUMNS, MINUS
from diffguide.pipelines.errors import UserError

CELLS = "## All cells"
_HEADING = re.compile(r'^## (?:<a id="(\w+)"></a>)?', re.MULTILINE)
_PART = re.compile(r"^### (\w+)$", re.MULTILINE)
_SETTING = re.compile(r"^\w+: (\S+), n = (\d+), seeds (\d+) to (\d+):$", re.MULTILINE)
_CELL = re.compile(r"^\|.*$", re.MULTILINE)
_TERM = r"`([^`]+)` @ ([\d.]+), (\d+) steps"
_DIFFERENCE = re.compile(f"{_TERM} {MINUS} {_TERM}")
_METRICS = {column.label: name for name, column in COLUMNS.items()}
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_ROW = re.compile(r"^\| \[.*\]\(#(\w+)\) \|.*$", re.MULTILINE)

Setting = tuple[str, float, int]
"""A rule, its scale and the number of steps."""


@dataclass
class Page:
    """rows: of the table of claims; sections: of the claims; parts: of the comparisons, under "All cells". By name."""

    rows: dict[str, str] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    gallery: str = ""


def read_page(path: Path, gallery: str) -> Page:
    """The page that page.py wrote to `path`; an empty one where there is none. gallery: the heading of the gallery."""
    if not path.is_file():
        return Page()
    text = path.read_text(encoding="utf-8")
    page = Page(rows={match[1]: match[0] for match in _ROW.finditer(text)})
    for heading, block in _blocks(text, _HEADING):
        if heading[1]:
            page.sections[heading[1]] = block
        elif block.startswith(CELLS):
            page.parts = {name[1]: part for name, part in _blocks(block, _PART)}
        elif block.startswith(gallery):
            page.gallery = block
    return page


def read_results(path: Path, part: str) -> dict[str, Any]:
    """A comparison whose cells are on a page, as `read_cells` has it, and the page's path.

    UserError: there is no such page, or no such table on it.
    """
    found = read_cells(read_page(path, "").parts.get(part, ""))
    if not found or not all("fid" in cell["metrics"] for cell in found["cells"]):
        raise UserError(f"{str(path)!r} has no table of the cells of {part}: give a page that page.py wrote")
    return {"page": str(path), **found}


def read_cells(block: str) -> dict[str, Any]:
    """A comparison from what a page says of it: its model, n, seeds, and of each cell its setting and metrics.

    Each metric is a value, with low and high where it has an interval. {} where there is no table.
    """
    about, lines = _SETTING.search(block), [line.strip("| ").split(" | ") for line in _CELL.findall(block)]
    if not about or len(lines) < 3:
        return {}
    headers, _, *rows = lines
    columns = {_METRICS[label]: place for place, label in enumerate(headers) if label in _METRICS}
    cells = [
        {
            "guidance": row[0].strip("`"),
            "guidance_scale": float(row[1]),
            "steps": int(row[2]),
            "metrics": {name: read for name, place in columns.items() if (read := _estimate(row[place]))},
        }
        for row in rows
    ]
    model, n, first, last = about.groups()
    return {"model": model, "n": int(n), "seeds": [int(first), int(last)], "cells": cells}


def setting(cell: Mapping[str, Any]) -> Setting:
    """By what a cell differs from the others of its comparison."""
    return cell["guidance"], cell["guidance_scale"], cell["steps"]


def read_differences(section: str) -> list[dict[str, Any]]:
    """The statements of a claim that are about one cell less another: text, metric, both settings, value, low and high.

    Those without an interval are left out, as are those about a metric without bias.
    """
    found = []
    for row in (line.strip("| ").split(" | ") for line in _CELL.findall(section)):
        match = _DIFFERENCE.fullmatch(row[2]) if len(row) == 5 else None
        if match and row[1] in _METRICS and len(value := _estimate(row[3])) == 3:
            one, scale, steps, other, its_scale, its_steps = match.groups()
            cells = [(one, float(scale), int(steps)), (other, float(its_scale), int(its_steps))]
            found.append({"text": row[2], "metric": _METRICS[row[1]], "cells": cells, **value})
    return found


def _estimate(text: str) -> dict[str, float]:
    """A value and its interval, as the page has them."""
    numbers = [float(word) for word in _NUMBER.findall(text.replace(MINUS, "-"))]
    return dict(zip(("value", "low", "high"), numbers))


def table_after(heading: str, section: str) -> str:
    """The table below a line of a section; "" where there is none."""
    _, _, rest = section.partition(f"{heading}\n\n")
    return rest.partition("\n\n")[0]


def _blocks(text: str, heading: re.Pattern[str]) -> list[tuple[re.Match[str], str]]:
    """Each heading with the text from it to the next one."""
    found = list(heading.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [(match, text[match.start() : end].strip()) for match, end in zip(found, ends)]
