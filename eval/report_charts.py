"""Charts as inline SVG: lines with bands, and points with a front. Colours are those of the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 340, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 36
COLOURS = 8


@dataclass(frozen=True)
class Point:
    """low, high: the interval of y, None for none. name: shown when pointed at."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one rule; style: its number among the rules, for colour and mark."""

    label: str
    style: int
    points: Sequence[Point]


def line_chart(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """Lines through the points of each series, in bands of their intervals. "" without points."""
    scale = _Scale.of(series)
    if scale is None:
        return ""
    parts = []
    for one in series:
        points = sorted(one.points, key=lambda point: point.x)
        colour = f"var(--s{one.style % COLOURS})"
        bounded = [p for p in points if p.low is not None and p.high is not None]
        if len(bounded) > 1:
            edge = [scale.at(p.x, p.high or 0.0) for p in bounded] + [
                scale.at(p.x, p.low or 0.0) for p in bounded[::-1]
            ]
            parts.append(f'<polygon class="band" fill="{colour}" points="{_path(edge)}"/>')
        line = _path([scale.at(p.x, p.y) for p in points])
        dash = "" if one.style == 0 else f' stroke-dasharray="{(7, 2, 5, 4)[one.style % 4]} {2 + one.style % 3}"'
        parts.append(f'<polyline class="line" stroke="{colour}"{dash} points="{line}"/>')
        if len(points) <= 16:
            parts += [_mark(*scale.at(p.x, p.y), one.style, p.name) for p in points]
    return _frame(title, x_label, y_label, scale, parts)


def scatter_chart(title: str, x_label: str, y_label: str, series: Sequence[Series], lower: bool) -> str:
    """Points with the bars of their intervals, and the front of those that no other betters in both directions.

    lower: whether a smaller y is better; a smaller x always is. "" without points.
    """
    scale = _Scale.of(series)
    if scale is None:
        return ""
    parts, every = [], [point for one in series for point in one.points]
    front = _front(every, lower)
    if len(front) > 1:
        parts.append(f'<polyline class="front" points="{_path([scale.at(p.x, p.y) for p in front])}"/>')
    for one in series:
        colour = f"var(--s{one.style % COLOURS})"
        for point in one.points:
            x, y = scale.at(point.x, point.y)
            if point.low is not None and point.high is not None:
                ends = scale.at(point.x, point.low)[1], scale.at(point.x, point.high)[1]
                bar = f"M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}"
                parts.append(f'<path stroke="{colour}" opacity=".5" d="{bar}"/>')
            parts.append(_mark(x, y, one.style, point.name))
    return _frame(title, x_label, y_label, scale, parts)


def legend(labels: Sequence[str]) -> str:
    """The mark of each rule with its name."""
    items = "".join(
        f'<li><svg viewBox="0 0 14 14" aria-hidden="true">{_mark(7, 7, i, "")}</svg>{escape(label)}</li>'
        for i, label in enumerate(labels)
    )
    return f'<ul class="legend small">{items}</ul>\n'


@dataclass(frozen=True)
class _Scale:
    xs: list[float]
    ys: list[float]

    @classmethod
    def of(cls, series: Sequence[Series]) -> _Scale | None:
        points = [point for one in series for point in one.points]
        if not points:
            return None
        ys = [y for p in points for y in (p.y, p.low, p.high) if y is not None]
        return cls(_ticks(min(p.x for p in points), max(p.x for p in points)), _ticks(min(ys), max(ys)))

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.xs[0]) / (self.xs[-1] - self.xs[0])
        up = (y - self.ys[0]) / (self.ys[-1] - self.ys[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`, five or so."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        pad = abs(low) / 10 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / 4
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, last + 1)]


def _frame(title: str, x_label: str, y_label: str, scale: _Scale, parts: Sequence[str]) -> str:
    lines = []
    for y in scale.ys:
        height = scale.at(scale.xs[0], y)[1]
        lines.append(f'<path class="axis" d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{_label(y, scale.ys)}</text>')
    for x in scale.xs:
        at = scale.at(x, scale.ys[0])[0]
        lines.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_label(x, scale.xs)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    lines.append(f'<text class="title" x="0" y="13">{escape(title)}</text>')
    name = escape(f"{title}: {y_label} against {x_label}; the numbers are in the tables")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">{"".join(lines)}{"".join(parts)}</svg>\n'
    )


def _label(value: float, ticks: Sequence[float]) -> str:
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    digits += ((ticks[1] - ticks[0]) * 10**digits) % 1 > 1e-6  # steps of 2.5
    return f"{value:.{digits}f}".replace("-", "\u2212")


def _mark(x: float, y: float, style: int, name: str) -> str:
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"',
        f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"',
        f'<path d="M{x:.1f} {y - 5:.1f}l4.6 8.2h-9.2z"',
        f'<path d="M{x:.1f} {y - 5.2:.1f}l5.2 5.2-5.2 5.2-5.2-5.2z"',
    )
    tag = shapes[style % 4].split()[0][1:]
    inside = f"<title>{escape(name)}</title>" if name else ""
    return f'{shapes[style % 4]} fill="var(--s{style % COLOURS})">{inside}</{tag}>'


def _front(points: Sequence[Point], lower: bool) -> list[Point]:
    best, front = math.inf, []
    for point in sorted(points, key=lambda p: (p.x, p.y if lower else -p.y)):
        y = point.y if lower else -point.y
        if y < best:
            best = y
            front.append(point)
    return front


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
