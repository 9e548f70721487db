"""The results of a comparison in a few lines for the terminal."""

from __future__ import annotations

from typing import Any

from .columns import COLUMNS, number


def summary(results: dict[str, Any], seconds: dict[int, float]) -> str:
    """A line per cell, and what follows from them. seconds: per image of each cell, as far as known."""
    names = results["metrics"]
    rows = [["rule", "scale", "steps", "scheduler", *(COLUMNS[name].label for name in names), "s/image"]]
    for i, cell in enumerate(results["cells"]):
        row = [cell["guidance"], f"{cell['guidance_scale']:g}", str(cell["steps"]), cell["scheduler"] or ""]
        row += [number(name, cell["metrics"][name]["value"]) for name in names]
        rows.append([*row, f"{seconds[i]:.3g}" if i in seconds else ""])
    kept = [column for column in zip(*rows) if any(column[1:])]
    widths = [max(map(len, column)) for column in kept]
    lines = ["  ".join(word.rjust(width) for word, width in zip(row, widths)) for row in zip(*kept)]
    method = results["environment"]["intervals"]
    notes = [f"n = {results['n']}; intervals: {method['level']:.0%}, {method['method']}"]
    return "\n".join([*lines, "", *results["conclusions"], *notes])
