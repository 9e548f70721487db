"""The figures of a report: curves against scale, the Pareto front, and traces."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from .columns import CHOICES, COLUMNS, judged
from .report_charts import Point, Series, legend, line_chart, scatter_chart
from .report_sections import Results, rules_of, short

TRACES = {
    "cosine": "cosine of both predictions",
    "ratio": "|cond - uncond| / |uncond|",
    "update_norm": "|guided - cond|",
}


def curves(results: Results) -> str:
    """Metrics against scale, a chart for each metric at each number of steps."""
    if len({cell["guidance_scale"] for cell in results["cells"]}) < 2:
        return "<p>One scale only: no curve.</p>\n"
    charts = []
    for group, cells in _groups(results, lambda cell: (cell["steps"], cell["scheduler"])).items():
        where = f", {group[0]} steps" + (f", {group[1]}" if group[1] else "")
        for name in (name for name in CHOICES if name in results["metrics"]):
            series = _series(results, cells, lambda cell: cell["guidance_scale"], name)
            chart = line_chart(COLUMNS[name].label + where, "guidance scale", COLUMNS[name].label, series)
            charts.append(f"<figure>{chart}</figure>")
    note = "Bands are the intervals of single cells. Rules share their seeds, so judge them by the differences above."
    return f'<p class="small">{note}</p>' + legend(rules_of(results)) + f'<div class="charts">{"".join(charts)}</div>\n'


def pareto(results: Results) -> str:
    """The first metric with a better side against evaluations."""
    name = next(iter(judged(results["metrics"])), None)
    if name is None:
        return ""
    series = _series(results, results["cells"], lambda cell: cell["metrics"]["evaluations"]["value"], name)
    label = COLUMNS[name].label
    title = f"{label} against evaluations per image"
    chart = scatter_chart(title, "evaluations per image", label, series, COLUMNS[name].better < 0)
    if not chart:
        return ""
    caption = "Dashed: cells that no other betters in both. Bars: intervals. Picked from many, the best looks its best."
    return f'{legend(rules_of(results))}<figure class="wide">{chart}<figcaption>{caption}</figcaption></figure>\n'


def traces(results: Results) -> str:
    """Per step: what both predictions were to each other and what the rule did, means over images."""
    parts = []
    groups = _groups(results, lambda cell: (cell["guidance_scale"], cell["steps"], cell["scheduler"]))
    for number, (group, cells) in enumerate(groups.items()):
        charts = []
        for name, label in TRACES.items():
            series = [
                Series(cell["guidance"], rules_of(results).index(cell["guidance"]), _steps(cell, name))
                for cell in cells
                if cell["trace"]
            ]
            charts.append(line_chart(label, "step", label, series))
        if any(charts):
            title = f"Scale {group[0]:g}, {group[1]} steps" + (f", {group[2]}" if group[2] else "")
            figures = "".join(f"<figure>{chart}</figure>" for chart in charts if chart)
            shown = " open" if number == len(groups) - 1 else ""
            parts.append(
                f'<details{shown}><summary>{escape(title)}</summary><div class="charts">{figures}</div></details>\n'
            )
    return legend(rules_of(results)) + "".join(parts) if parts else "<p>No rule left a trace.</p>\n"


def _groups(results: Results, key: Callable[[dict[str, Any]], Any]) -> dict[Any, list[dict[str, Any]]]:
    groups: dict[Any, list[dict[str, Any]]] = {}
    for cell in results["cells"]:
        groups.setdefault(key(cell), []).append(cell)
    return groups


def _series(
    results: Results, cells: list[dict[str, Any]], x: Callable[[dict[str, Any]], float | None], name: str
) -> list[Series]:
    series = []
    for style, rule in enumerate(rules_of(results)):
        points = []
        for cell in cells:
            record, across = cell["metrics"][name], x(cell)
            if cell["guidance"] == rule and record["value"] is not None and across is not None:
                words = f"{rule}, {short(cell)}: {record['value']:.4g}"
                points.append(Point(across, record["value"], record["low"], record["high"], words))
        series.append(Series(rule, style, points))
    return series


def _steps(cell: dict[str, Any], name: str) -> list[Point]:
    return [Point(i, value) for i, value in enumerate(cell["trace"][name]) if value is not None]
