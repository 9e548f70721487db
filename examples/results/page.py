"""Write docs/results.md and its figures from the results.json of run.py, and from nothing else.

python examples/results/page.py runs/results
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from claims import CLAIMS, FAILS, HOLDS, LIMITS, UNDECIDED, VERDICTS, Claim, verdict
from figures import draw
from tables import cells, matched, said, table

from diffguide.eval.bootstrap import LEVEL
from diffguide.eval.files import read_json
from diffguide.pipelines.errors import UserError, one_line

DOCS = Path(__file__).parents[2] / "docs"

RULE = f"""Each statement below is about a difference between cells that drew the same prompts from the same noise.
It **{HOLDS}** where the whole {LEVEL:.0%} interval of that difference lies on the side that is said,
**{FAILS}** where the whole interval lies on the other side, and is **{UNDECIDED}** where the interval contains 0.
Precision and recall have no interval, and nothing is said of them."""


def main(argv: list[str] | None = None) -> int:
    """Write the page; the exit status, 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="what run.py was given as --output")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder for results.md and results/*.png")
    args = parser.parse_args(argv)
    try:
        claims = read_json(args.runs / "results.json")["claims"]
    except UserError as error:
        print(f"page.py: error: {one_line(error)}", file=sys.stderr)
        return 2
    figures = args.docs / "results"
    figures.mkdir(parents=True, exist_ok=True)
    sections = [section(name, CLAIMS[name], record, figures) for name, record in claims.items()]
    page = "\n\n".join([*head(claims), *sections, *foot(claims)])
    (args.docs / "results.md").write_text(page + "\n", encoding="utf-8")
    return 0


def head(claims: dict[str, Any]) -> list[str]:
    """The title, the verdicts of all claims, and the rule that they come from."""
    rows = [
        [f"[{CLAIMS[name].title}](#{name})", *(str(verdicts(record).count(word)) for word in VERDICTS)]
        for name, record in claims.items()
    ]
    return [
        "# The papers' claims, measured",
        "Written by `python examples/results/page.py runs/results`; no number was typed by hand but those of the "
        "papers.",
        table(["claim: its statements that", *VERDICTS], rows),
        RULE,
    ]


def section(name: str, claim: Claim, record: dict[str, Any], figures: Path) -> str:
    """One claim: the papers' figures, the statements, charts, tables, the command."""
    parts = [f'## <a id="{name}"></a>{claim.title}']
    parts.append("Published:\n\n" + "\n".join(f"- {line}" for line in claim.published))
    parts.append(f"Measured, {setting(record)}:\n\n{said(record)}")
    for number, chart in enumerate(claim.charts):
        file = f"{name}-{number}.png"
        draw(record["parts"][chart.part], chart, figures / file)
        parts.append(f"![{chart.metric} along {chart.along}, {record['parts'][chart.part]['model']}](results/{file})")
    for part, results in record["parts"].items():
        summary = f"<summary>All cells of {part}: {results['model']}, n = {results['n']}</summary>"
        parts.append(f"<details>{summary}\n\n{cells(results)}\n\n</details>")
    if claim.matched:
        parts.append(f"At equal effective scale:\n\n{matched(record['parts'][claim.matched])}")
    if claim.left_out:
        parts.append(f"Not measured: {claim.left_out}")
    return "\n\n".join([*parts, f"    {record['command']}"])


def foot(claims: dict[str, Any]) -> list[str]:
    """What the evidence cannot show, and what the numbers depend on."""
    known: dict[str, None] = {}
    for record in claims.values():
        for results in record["parts"].values():
            for key, value in results["environment"].items():
                if key == "versions":
                    value = ", ".join(f"{package} {number}" for package, number in value.items())
                if key == "intervals":
                    value = f"{value['method']}, {value['replicates']} replicates"
                known[f"- {key}: {value}"] = None
    return [
        "## Limits\n\n" + "\n".join(f"- {line}" for line in LIMITS),
        "## What the numbers depend on\n\n" + "\n".join(known),
    ]


def verdicts(record: dict[str, Any]) -> list[str]:
    """Of the statements of a claim."""
    return [verdict(one["sign"], one["low"], one["high"]) for one in record["statements"]]


def setting(record: dict[str, Any]) -> str:
    """The models of a claim, images of each cell, and seeds."""
    parts = record["parts"].items()
    return "; ".join(
        f"{name}: {its['model']}, n = {its['n']}, seeds {its['seeds'][0]} to {its['seeds'][1]}" for name, its in parts
    )


if __name__ == "__main__":
    sys.exit(main())
