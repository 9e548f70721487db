"""What the page says already. Its sections come from comparisons of hours, made one after another on whatever machine
there was: where the runs at hand lack a claim or a comparison, its section stays as it is, and a comparison that only
decides about scales can be read from the table of its cells.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffguide.eval.columns import COLUMNS
from diffguide.pipelines.errors import UserError

CELLS = "## All cells"
_HEADING = re.compile(r'^## (?:<a id="(\w+)"></a>)?', re.MULTILINE)
_PART = re.compile(r"^### (\w+)$", re.MULTILINE)
_SETTING = re.compile(r"^\w+: (\S+), n = (\d+), seeds (\d+) to (\d+):$", re.MULTILINE)
_CELL = re.compile(r"^\|.*$", re.MULTILINE)
_ROW = re.compile(r"^\| \[.*\]\(#(\w+)\) \|.*$", re.MULTILINE)


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
    """A comparison whose cells are on a page: its model, n, seeds, and of each cell what it is, and its FID.

    UserError: there is no such page, or no such table on it.
    """
    block = read_page(path, "").parts.get(part, "")
    setting, lines = _SETTING.search(block), [line.strip("| ").split(" | ") for line in _CELL.findall(block)]
    if not setting or not lines or COLUMNS["fid"].label not in lines[0]:
        raise UserError(f"{str(path)!r} has no table of the cells of {part}: give a page that page.py wrote")
    headers, _, *rows = lines
    fid = headers.index(COLUMNS["fid"].label)
    cells = [
        {
            "guidance": row[0].strip("`"),
            "guidance_scale": float(row[1]),
            "steps": int(row[2]),
            "metrics": {"fid": {"value": float(row[fid].split(" ")[0])}},
        }
        for row in rows
    ]
    model, n, first, last = setting.groups()
    return {"page": str(path), "model": model, "n": int(n), "seeds": [int(first), int(last)], "cells": cells}


def table_after(heading: str, section: str) -> str:
    """The table below a line of a section; "" where there is none."""
    _, _, rest = section.partition(f"{heading}\n\n")
    return rest.partition("\n\n")[0]


def _blocks(text: str, heading: re.Pattern[str]) -> list[tuple[re.Match[str], str]]:
    """Each heading with the text from it to the next one."""
    found = list(heading.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [(match, text[match.start() : end].strip()) for match, end in zip(found, ends)]
