"""What was sampled twice: the same cells in comparisons of other seeds, which have to agree as far as intervals say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, permutations
from math import hypot
from typing import Any

from kept import Setting, read_cells, read_differences, setting
from tables import table

from diffguide.eval.bootstrap import LEVEL
from diffguide.eval.columns import COLUMNS, COMPUTED, number

HEADING = "## Sampled twice"
ABOUT = f"""Cells of two comparisons that have no seed in common: the differences that statements are about, and where
both have as many images, the values. By the intervals on this page, two such samples are apart by what is allowed here
or less in {LEVEL:.0%} of all cases; in somewhat fewer where a scale was chosen on one of them, which flatters it"""
HEADS = ("", "metric", "here", "there", "apart", "allowed", "inside")
Cells = Mapping[Setting, Mapping[str, Any]]
"""Of each cell its metrics."""


def section(parts: Mapping[str, str], statements: Mapping[str, str]) -> str:
    """The section of the page; "" where no cell is in two comparisons of other seeds.

    parts: what the page says of each comparison. statements: the sections of its claims, by the comparison that they
    are about.
    """
    read = {name: read_cells(block) for name, block in parts.items()}
    cells = {name: {setting(cell): cell["metrics"] for cell in its["cells"]} for name, its in read.items() if its}
    rows = []
    for here, there in permutations(cells, 2):
        if here in statements and _apart(read[here], read[there]):
            growth = 1 + read[here]["n"] / read[there]["n"]
            rows += _differences(here, there, statements[here], cells[there], growth**0.5)
    for here, there in combinations(cells, 2):
        if _apart(read[here], read[there]) and read[here]["n"] == read[there]["n"]:
            rows += _values(here, there, cells[here], cells[there])
    if not rows:
        return ""
    inside = sum(row[-1] == "yes" for row in rows)
    return "\n\n".join([HEADING, f"{ABOUT}: {inside} of {len(rows)} are inside.", table(HEADS, rows)])


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two comparisons are of one model, and have no seed in common."""
    (first, last), (begin, end) = one["seeds"], other["seeds"]
    return one["model"] == other["model"] and (last < begin or end < first)


def _differences(here: str, there: str, statements: str, again: Cells, growth: float) -> Iterator[list[str]]:
    """Differences of two cells that a statement is about, where both are in another comparison, too.

    growth: of the interval, from one such difference to that of two.
    """
    for its in read_differences(statements):
        if all(cell in again and its["metric"] in again[cell] for cell in its["cells"]):
            minuend, subtrahend = (again[cell][its["metric"]]["value"] for cell in its["cells"])
            half = growth * (its["high"] - its["low"]) / 2
            yield _row(its["text"], its["metric"], {here: its["value"], there: minuend - subtrahend}, half)


def _values(here: str, there: str, cells: Cells, again: Cells) -> Iterator[list[str]]:
    """The metrics with intervals of cells that are in both."""
    for cell in filter(again.__contains__, cells):
        for metric in (name for name in cells[cell] if name not in COMPUTED):
            both = [its[cell].get(metric, {}) for its in (cells, again)]
            if all("low" in its for its in both):
                half = hypot(*((its["high"] - its["low"]) / 2 for its in both))
                rule, scale, steps = cell
                text = f"`{rule}` @ {scale:g}, {steps} steps"
                yield _row(text, metric, dict(zip((here, there), (its["value"] for its in both))), half)


def _row(text: str, metric: str, values: Mapping[str, float], half: float) -> list[str]:
    apart = abs(float.__sub__(*values.values()))
    shown = [f"{number(metric, value)} ({part})" for part, value in values.items()]
    inside = "yes" if apart <= half else "no"
    return [text, COLUMNS[metric].label, *shown, number(metric, apart), number(metric, half), inside]
