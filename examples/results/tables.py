"""The tables of the page, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims import verdict

from diffguide.eval.bootstrap import LEVEL
from diffguide.eval.columns import COLUMNS, DASH, MINUS, number


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    return "\n".join(map(table_row, [headers, ["---"] * len(headers), *rows]))


def table_row(cells: Sequence[str]) -> str:
    """A row of one."""
    return "| " + " | ".join(cells) + " |"


def said(statements: Sequence[dict[str, Any]], parts: dict[str, Any]) -> str:
    """The statements of a claim: the sum that each is about, its interval, its verdict."""
    rows = []
    for one in statements:
        results = parts[one["part"]]
        rows.append(
            [
                one["says"],
                COLUMNS[one["metric"]].label + " without bias" * one.get("unbiased", False),
                _sum(one["weights"], results),
                _estimate(one["metric"], one),
                verdict(one["sign"], one["low"], one["high"]),
            ]
        )
    return table(["statement", "metric", "of cells", f"sum [{LEVEL:.0%} interval]", "verdict"], rows)


def cells(results: dict[str, Any]) -> str:
    """Every cell of a part with all metrics and the seconds that an image took."""
    names = results["metrics"]
    rows = []
    for cell, seconds in zip(results["cells"], results["seconds"]):
        values = [_estimate(name, cell["metrics"][name]) for name in names]
        rows.append([*_setting(cell), *values, DASH if seconds is None else f"{seconds:.3g}"])
    return table(["rule", "scale", "steps", *(COLUMNS[name].label for name in names), "s/image"], rows)


def matched(results: dict[str, Any], metric: str = "fid") -> str:
    """What each rule has more than plain guidance where both go equally far along the guidance direction."""
    rows = []
    for match in results["matched_effective_scale"]:
        if match["cells"]:
            scale = results["cells"][match["baseline"]]["guidance_scale"]
            less = _estimate(metric, match["minus_baseline"][metric])
            rows.append([f"`{match['guidance']}`", f"{scale:g}", number("effective_scale", match["effort"]), less])
    label = COLUMNS[metric].label
    return table(["rule", "scale of CFG", "effective scale of both", f"{label} less that of CFG"], rows)


def _setting(cell: dict[str, Any]) -> list[str]:
    return [f"`{cell['guidance']}`", f"{cell['guidance_scale']:g}", str(cell["steps"])]


def _sum(weights: dict[str, float], results: dict[str, Any]) -> str:
    """The cells of a statement, with their weights."""
    terms = []
    for cell, weight in weights.items():
        size = "" if abs(weight) == 1 else f"{abs(weight):.3g} "
        terms.append(f"{'+' if weight > 0 else MINUS} {size}{_name(results['cells'][int(cell)])}")
    return " ".join(terms).removeprefix("+ ")


def _name(cell: dict[str, Any]) -> str:
    return f"`{cell['guidance']}` @ {cell['guidance_scale']:g}, {cell['steps']} steps"


def _estimate(metric: str, record: dict[str, Any]) -> str:
    """A value and its interval, where it has one."""
    value = number(metric, record["value"])
    if record["low"] is None:
        return value
    return f"{value} [{number(metric, record['low'])}, {number(metric, record['high'])}]"
