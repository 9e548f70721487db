"""The sections that `diffguide list` has besides those of the pipelines: metrics, and what they work with."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from diffguide.pipelines.listing import add_section

from .metrics import METRICS
from .networks import NETWORKS
from .references import REFERENCES


def add_sections() -> None:
    """Let `diffguide list` show metrics, networks and references."""
    add_section("metrics", metrics, _metric_line)
    for name, table in (("networks", NETWORKS), ("references", REFERENCES)):
        add_section(name, lambda table=table: _described(table), _described_line)  # type: ignore[misc]


def metrics() -> list[dict[str, Any]]:
    """All metrics: name, kind, which way is better, definition, source, network, and what they need."""
    return [
        {"name": name} | {f.name: getattr(metric, f.name) for f in fields(metric) if f.name != "compute"}
        for name, metric in METRICS.items()
    ]


def _described(table: dict[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "description": text} for name, text in table.items()]


def _described_line(row: dict[str, Any]) -> str:
    return f"  {row['name']:<20}{row['description']}"


def _metric_line(row: dict[str, Any]) -> str:
    better = f"; {row['better']} is better" if row["better"] else ""
    needs = f"; needs {', '.join(row['needs'])}" if row["needs"] else ""
    network = f"{row['extractor']}, " if row["extractor"] else ""
    return f"  {row['name']:<20}{row['definition']} ({network}{row['source']}{better}{needs})"
