"""What a comparison says, in one plain sentence per rule."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

from .bootstrap import LEVEL, student_to_normal
from .columns import COLUMNS, has_interval, judged, number


def conclude(guidances: list[str], metrics: list[str], differences: list[dict[str, Any]], images: int) -> list[str]:
    """A sentence for each rule but the first, on the first metric with a better side and intervals; [] without one.

    A rule that shares no setting with the first is said to share none.

    differences: as in results.json. A rule that was tried at several settings has as many chances: its intervals are
    widened so that all of them together are right as often as one alone is (Bonferroni's correction, of Student's t).
    Those that do not tell a difference from 0 count as undecided.
    """
    metric = next(filter(has_interval, judged(metrics)), None)
    if metric is None or len(guidances) < 2:
        return []
    first, *others = guidances
    chosen = [entry for entry in differences if entry["metric"] == metric]
    by_rule = {rule: [entry for entry in chosen if entry["guidance"] == rule] for rule in others}
    several = {key: len({entry[key] for entry in chosen}) > 1 for key in ("steps", "scheduler")}
    return [
        _sentence(rule, first, metric, own, several, images) if own else f"{rule} shares no setting with {first}."
        for rule, own in by_rule.items()
    ]


def _sentence(
    rule: str, first: str, metric: str, entries: list[dict[str, Any]], several: dict[str, bool], images: int
) -> str:
    column = COLUMNS[metric]
    if any(entry["low"] != entry["low"] or entry["low"] is None for entry in entries):
        return f"{rule} against {first}: {images} images are too few for an interval, so nothing is decided."
    entries = [_widened(entry, len(entries), images) for entry in entries]
    gain = {id(entry): column.better * entry["value"] for entry in entries}
    decided = [entry for entry in entries if entry["low"] > 0 or entry["high"] < 0]
    better = sorted((e for e in decided if gain[id(e)] > 0), key=lambda e: -gain[id(e)])
    worse = sorted((e for e in decided if gain[id(e)] < 0), key=lambda e: gain[id(e)])
    undecided = [entry for entry in entries if entry not in decided]
    parts = []
    for verb, group in (("beats", better), ("loses to", worse)):
        if group:
            most = group[0]
            low, high = sorted((abs(most["low"]), abs(most["high"])))
            by = f"{number(metric, abs(most['value']))} {column.label} [{number(metric, low)}, {number(metric, high)}]"
            more = f", and at {len(group) - 1} other settings by less" if len(group) > 2 else ""
            more = f", and at {_where(group[1], several)} by less" if len(group) == 2 else more
            parts.append(f"{verb} {first} at {_where(most, several)} by {by}{more}")
    if undecided:
        places = "any setting" if not parts and len(undecided) == len(entries) else _places(undecided, several)
        parts.append(f"cannot be told from {first} at {places}" if not parts else f"undecided at {places}")
    together = (
        f" (intervals that hold at all {len(entries)} settings together)" if better + worse and entries[1:] else ""
    )
    return f"{rule} {'; '.join(parts)}{together}."


def _widened(entry: dict[str, Any], count: int, images: int) -> dict[str, Any]:
    """A difference with an interval that holds in `count` of them at once, given one that holds in each alone."""
    together, alone = (
        NormalDist().inv_cdf((1 + level) / 2) * student_to_normal(level, max(images - 1, 1))
        for level in (1 - (1 - LEVEL) / count, LEVEL)
    )
    factor = together / alone
    value = entry["value"]
    return entry | {side: value + factor * (entry[side] - value) for side in ("low", "high")}


def _where(entry: dict[str, Any], several: dict[str, bool]) -> str:
    where = f"scale {entry['guidance_scale']:g}"
    if several["steps"]:
        where += f" with {entry['steps']} steps"
    return where + (f" of {entry['scheduler'] or 'the own scheduler'}" if several["scheduler"] else "")


def _places(entries: list[dict[str, Any]], several: dict[str, bool]) -> str:
    if len(entries) > 3:
        return f"{len(entries)} settings"
    names = [_where(entry, several) for entry in entries]
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[:-1] else names)
