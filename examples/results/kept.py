"""What the page says already. Its sections come from comparisons of hours, made one after another on whatever machine
there was: where the runs at hand lack a claim or a comparison, its section stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

CELLS = "## All cells"
_HEADING = re.compile(r'^## (?:<a id="(\w+)"></a>)?', re.MULTILINE)
_PART = re.compile(r"^### (\w+)$", re.MULTILINE)
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


def _blocks(text: str, heading: re.Pattern[str]) -> list[tuple[re.Match[str], str]]:
    """Each heading with the text from it to the next one."""
    found = list(heading.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [(match, text[match.start() : end].strip()) for match, end in zip(found, ends)]
