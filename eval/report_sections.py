"""The words and tables of a report, each from results.json to HTML."""

from __future__ import annotations

from html import escape
from typing import Any

from .columns import CHOICES, COLUMNS, DASH, MINUS, has_interval
from .report_html import Entry, difference, estimate, plain, table, text

Results = dict[str, Any]
MATCHED = 4
"""Metrics of the table of equal effort, those with intervals first."""


def conclusions(results: Results) -> str:
    """One sentence per rule."""
    sentences = results["conclusions"]
    if not sentences:
        return '<p class="lede">One rule, or no metric with a better side and intervals: nothing is decided here.</p>\n'
    return '<ul class="lede">' + "".join(f"<li>{escape(one)}</li>" for one in sentences) + "</ul>\n"


def values(results: Results, seconds: dict[int, float] | None = None) -> str:
    """All cells, metric by metric; seconds: per image of each cell."""
    headers = [*_setting_headers(results), *(COLUMNS[name].label for name in results["metrics"])]
    headers += ["seconds"] * bool(seconds)
    rows = []
    for i, cell in enumerate(results["cells"]):
        row = [*_setting(results, cell), *(estimate(name, cell["metrics"][name]) for name in results["metrics"])]
        rows.append(row + ([plain(seconds.get(i), f"{seconds.get(i, 0):.3g}")] if seconds else []))
    level = results["environment"]["intervals"]["level"]
    caption = f"Each cell, n = {results['n']} images. In brackets: {level:.0%} interval. A header sorts the table."
    return table(caption, headers, rows)


def differences(results: Results) -> str:
    """All cells less the first rule at the same setting."""
    names = [name for name in results["metrics"] if name != "effective_scale"]
    by_cell: dict[int, dict[str, Any]] = {}
    for entry in results["differences"]:
        by_cell.setdefault(entry["cell"], {})[entry["metric"]] = entry
    rows = [
        [*_setting(results, results["cells"][i]), *(difference(name, entries.get(name)) for name in names)]
        for i, entries in by_cell.items()
    ]
    first = escape(results["cells"][0]["guidance"])
    caption = (
        f"What each rule has more (+) or less ({MINUS}) than {first} at the same setting, on the same seeds and "
        f"prompts. Bold: the paired interval leaves 0 out, as 1 in 20 of these {len(rows) * len(names)} may by chance."
    )
    return table(caption, [*_setting_headers(results), *(COLUMNS[name].label for name in names)], rows)


def matched(results: Results, kind: str, words: str) -> str:
    """The rules at equal effort, `kind` being "matched_evaluations" or "matched_effective_scale"."""
    asked = [name for name in CHOICES if name in results["metrics"]]
    names = sorted(asked, key=lambda name: not has_interval(name))[:MATCHED]
    cells = results["cells"]
    rows = []
    for match in results[kind]:
        base = cells[match["baseline"]]
        row = [text(match["guidance"]), *_setting(results, base)[1:], plain(match["effort"], f"{match['effort']:.3g}")]
        if not match["cells"]:
            rows.append([*row, Entry("not reached", "", "words"), *[Entry(DASH, "")] * len(names)])
            continue
        mix = [f"{weight:.0%} of {short(cells[i])}" for i, weight in match["cells"]]
        used = mix[0].split(" of ", 1)[1] if len(mix) == 1 else " + ".join(mix)
        rows.append([*row, text(used), *(difference(name, match["minus_baseline"][name]) for name in names)])
    first = escape(cells[0]["guidance"])
    caption = f"Less {first} at {words}. Between two cells of a rule the straight line through them is read."
    headers = ["rule", *(f"{first} {name}" for name in _setting_headers(results)[1:]), words, "from its cells"]
    return table(caption, [*headers, *(COLUMNS[name].label for name in names)], rows)


def method(results: Results) -> str:
    """What was measured and how, and the environment."""
    environment, n = results["environment"], results["n"]
    intervals = environment["intervals"]
    definitions = "".join(
        f"<dt>{escape(COLUMNS[name].label)}</dt><dd>{escape(COLUMNS[name].definition)}</dd>"
        for name in results["metrics"]
    )
    notes = [
        f"Image k of every cell has seed {results['seeds'][0]} + k and prompt k of {results['prompts']}, in turn.",
        f"Intervals: {intervals['method']}, {intervals['replicates']} replicates, level {intervals['level']:.0%}, "
        f"seed {intervals['seed']}; none with fewer than {intervals['fewest_images']} images.",
        f"A Frechet distance depends on the number of images, n = {n} here, and is too large when they are few. The "
        "bias is alike in all cells but not equal; compare with numbers at the same n and from the same network only.",
        "Evaluations are those an image would need alone; a batch pays for the unconditional one until all of its "
        "images can do without.",
    ]
    rows = {"model": results["model"], "n": n, **_flat(environment)}
    listed = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in rows.items())
    command = f"<h3>Command</h3><pre>{escape(results['command'])}</pre>" if results["command"] else ""
    return (
        f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul><h3>Metrics</h3><dl>{definitions}</dl>"
        f"<h3>Environment</h3><dl>{listed}</dl>{command}\n"
    )


def _flat(environment: dict[str, Any]) -> dict[str, Any]:
    plain_entries = {key: value for key, value in environment.items() if not isinstance(value, dict)}
    return plain_entries | environment["versions"]


def rules_of(results: Results) -> list[str]:
    """The rules, the baseline first."""
    return list(dict.fromkeys(cell["guidance"] for cell in results["cells"]))


def _schedulers(results: Results) -> bool:
    return any(cell["scheduler"] for cell in results["cells"])


def _setting_headers(results: Results) -> list[str]:
    return ["rule", "scale", "steps", *["scheduler"] * _schedulers(results)]


def _setting(results: Results, cell: dict[str, Any]) -> list[Entry]:
    entries = [text(cell["guidance"]), plain(cell["guidance_scale"]), plain(cell["steps"])]
    return entries + [text(cell["scheduler"] or "own")] * _schedulers(results)


def short(cell: dict[str, Any]) -> str:
    """The setting of a cell in a few words."""
    return f"scale {cell['guidance_scale']:g}, {cell['steps']} steps"
