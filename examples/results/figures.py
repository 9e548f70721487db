"""The charts of the page: a line for each rule, with the intervals of its cells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from claims import Chart
from matplotlib import colormaps
from matplotlib.figure import Figure

from diffguide.eval.columns import COLUMNS
from diffguide.pipelines.spelling import tidy_guidance

AXES = {"guidance_scale": "guidance scale", "steps": "steps", "evaluations": "evaluations per image", "step": "step"}
TRACED = {"ratio": "|cond - uncond| / |uncond|"}
MARKS = "osD^vPX*<>"


def draw(part: dict[str, Any], chart: Chart, path: Path, tuned: Mapping[str, float] | None = None) -> None:
    """Write the chart of a part's cells to `path`. tuned: as in `drawn`."""
    figure = Figure(figsize=(8.0, 4.0), layout="constrained", dpi=110)
    axes = figure.subplots()
    axes.set_prop_cycle(color=[*colormaps["tab10"].colors, *colormaps["Dark2"].colors])
    for number, (label, cells) in enumerate(_lines(drawn(part["cells"], chart, tuned), chart.along).items()):
        mark = MARKS[number % len(MARKS)]
        if chart.along == "step":
            axes.plot(cells[0]["trace"][chart.metric], marker=mark, markersize=4, label=label)
            continue
        cells = sorted(cells, key=lambda cell: _place(cell, chart.along))
        across, metrics = (
            [_place(cell, chart.along) for cell in cells],
            [cell["metrics"][chart.metric] for cell in cells],
        )
        bars = [[_reach(metric, end) for metric in metrics] for end in ("low", "high")]
        values = [metric["value"] for metric in metrics]
        axes.errorbar(across, values, bars, marker=mark, markersize=5, linewidth=1, capsize=2, label=label)
    axes.set_xlabel(AXES[chart.along])
    axes.set_ylabel(TRACED[chart.metric] if chart.along == "step" else COLUMNS[chart.metric].label)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="x-small")
    figure.savefig(path, metadata={"Software": None})


def drawn(cells: list[dict[str, Any]], chart: Chart, tuned: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """The cells of a part that a chart shows.

    tuned: the best scale of each rule on the other half of the seeds, for a chart of these; a rule that has none is
    shown at that of plain guidance.
    """
    chosen = [cell for cell in cells if not chart.rules or cell["guidance"] in chart.rules]
    if not chart.best:
        return chosen
    assert tuned is not None
    scales = {tidy_guidance(rule): scale for rule, scale in tuned.items()}
    return [cell for cell in chosen if cell["guidance_scale"] == scales.get(cell["guidance"], scales["cfg"])]


def _lines(cells: list[dict[str, Any]], along: str) -> dict[str, list[dict[str, Any]]]:
    """The cells of each line: those of a rule that differ in nothing but what the line runs along."""
    several = {key: len({cell[key] for cell in cells}) > 1 for key in ("guidance_scale", "steps")}
    lines: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        rule = cell["guidance"]
        if along == "evaluations":
            rule = re.sub(r"(threshold|:stop)=[^,+]+", r"\1", rule)  # AG's threshold, the end of truncation
        words = [rule]
        if several["guidance_scale"] and along != "guidance_scale":
            words.append(f"scale {cell['guidance_scale']:g}")
        if several["steps"] and along not in ("steps", "evaluations"):
            words.append(f"{cell['steps']} steps")
        lines.setdefault(", ".join(words), []).append(cell)
    return lines


def _place(cell: dict[str, Any], along: str) -> float:
    return cell["metrics"]["evaluations"]["value"] if along == "evaluations" else cell[along]


def _reach(metric: dict[str, Any], end: str) -> float:
    return 0.0 if metric[end] is None else abs(metric[end] - metric["value"])
