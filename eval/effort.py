"""Which cells to compare so that the effort is equal: as many evaluations, or as far along the guidance direction.

A rule's metric between two of its cells is read off the straight line through them. A match is thus a combination of
cells with weights that sum to one, and its interval follows from theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from .plan import Cell

SAME = 0.01
"""Efforts that differ by less than this share are taken for equal."""


@dataclass(frozen=True)
class Match:
    """`cells` (number, weight) of a rule at the effort of the baseline's cell; () where the rule was not measured."""

    guidance: str
    baseline: int
    effort: float
    cells: tuple[tuple[int, float], ...]


def baselines(cells: Sequence[Cell]) -> list[int | None]:
    """For each cell the number of the first rule's cell at the same scale, steps and scheduler; None where none is."""
    own = {cell.setting: i for i, cell in enumerate(cells) if cell.guidance == cells[0].guidance}
    return [own.get(cell.setting) for cell in cells]


def match_evaluations(cells: Sequence[Cell], evaluations: Sequence[float]) -> list[Match]:
    """Each rule at the evaluations of each cell of the first rule, scale and scheduler alike, along its steps."""
    return _match(cells, evaluations, lambda cell: (cell.guidance_scale, cell.scheduler))


def match_effective_scale(cells: Sequence[Cell], scales: Sequence[float]) -> list[Match]:
    """Each rule at the effective scale of each cell of the first rule, steps and scheduler alike, along its scales."""
    return _match(cells, scales, lambda cell: (cell.steps, cell.scheduler))


def interpolate(points: Sequence[tuple[float, int]], x: float) -> tuple[tuple[int, float], ...]:
    """The weights of the cells of `points` (effort, cell) whose line has the effort x; () where x is outside.

    >>> interpolate([(10.0, 3), (20.0, 4)], 12.5)
    ((3, 0.75), (4, 0.25))
    """
    known = sorted(point for point in points if isfinite(point[0]))
    nearest = min(known, key=lambda point: abs(point[0] - x), default=None)
    if nearest is not None and abs(nearest[0] - x) <= SAME * abs(x):
        return ((nearest[1], 1.0),)
    for (low, first), (high, second) in zip(known, known[1:]):
        if low < x < high:
            share = (x - low) / (high - low)
            return (first, 1 - share), (second, share)
    return ()


def _match(cells: Sequence[Cell], efforts: Sequence[float], group: Callable[[Cell], object]) -> list[Match]:
    first, *others = dict.fromkeys(cell.guidance for cell in cells)
    matches = []
    for number, cell in enumerate(cells):
        if cell.guidance != first or not isfinite(efforts[number]):
            continue
        for guidance in others:
            points = [
                (efforts[i], i)
                for i, other in enumerate(cells)
                if other.guidance == guidance and group(other) == group(cell)
            ]
            if any(isfinite(effort) for effort, _ in points):
                found = interpolate(points, efforts[number])
                matches.append(Match(guidance, number, efforts[number], found))
    return matches
