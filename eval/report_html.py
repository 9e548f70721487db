"""Pieces of a page: escaped text, tables that sort, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .columns import COLUMNS, DASH, number


@dataclass(frozen=True)
class Entry:
    """A cell of a table: its HTML, what it sorts by (None: its text), its CSS class."""

    html: str
    sort: float | str | None = None
    kind: str = ""


def text(value: object) -> Entry:
    """Words."""
    return Entry(escape(str(value)), str(value), "words")


def plain(value: float | int | None, shown: str | None = None) -> Entry:
    """A number without an interval."""
    return Entry(escape(DASH if value is None else shown or f"{value:g}"), "" if value is None else float(value))


def estimate(metric: str, record: dict[str, Any] | None) -> Entry:
    """A value over its interval; a dash where it was not measured."""
    if record is None or record["value"] is None:
        return Entry(DASH, "")
    bounds = _bounds(metric, record)
    return Entry(number(metric, record["value"]) + (f"<small>{bounds}</small>" if bounds else ""), record["value"])


def difference(metric: str, record: dict[str, Any] | None) -> Entry:
    """A difference from the first rule over its interval, marked where the interval leaves 0 out."""
    if record is None or record["value"] is None:
        return Entry(DASH, "")
    value, bounds = number(metric, record["value"]), _bounds(metric, record)
    value = value if record["value"] < 0 else f"+{value}"
    decided = record["low"] is not None and (record["low"] > 0 or record["high"] < 0)
    better = COLUMNS[metric].better * record["value"]
    kind = "" if not decided or not better else "better" if better > 0 else "worse"
    shown = f"<strong>{value}</strong>" if decided else value
    return Entry(shown + (f"<small>{bounds}</small>" if bounds else ""), record["value"], kind)


def table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[Entry]]) -> str:
    """A table whose headers sort it; `caption` is HTML. "" without rows."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col"><button type="button">{escape(header)}</button></th>' for header in headers)
    body = "".join(f"<tr>{''.join(map(_entry, row))}</tr>\n" for row in rows)
    label = escape(headers[0] + " and more, scrolls sideways")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"
    )


def _entry(entry: Entry) -> str:
    kind = f' class="{entry.kind}"' if entry.kind else ""
    sort = "" if entry.sort is None else f' data-v="{escape(str(entry.sort))}"'
    return f"<td{kind}{sort}>{entry.html}</td>"


def _bounds(metric: str, record: dict[str, Any]) -> str:
    if record["low"] is None or record["low"] == record["high"]:
        return ""
    return f"[{number(metric, record['low'])}, {number(metric, record['high'])}]"
