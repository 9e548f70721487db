"""Write docs/results.md and its figures from what run.py left, and from nothing else but --evidence.

    python examples/results/page.py runs/results --evidence runs/evidence/evidence.json

--evidence: what examples/train_lcd/evidence.py wrote, for the claim about rewards. Claims that are in neither stay on
the page as they are.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import rewarded
from claims import CLAIMS, FAILS, HOLDS, LIMITS, PARTS, UNDECIDED, VERDICTS, verdict
from figures import draw
from gallery import draw_gallery
from kept import CELLS, read_page, table_after
from plans import tuned_scales
from tables import cells, matched, said, table, table_row
from twice import section as sampled_twice

from diffguide.eval.bootstrap import LEVEL
from diffguide.eval.files import read_json
from diffguide.pipelines.errors import UserError, one_line

DOCS = Path(__file__).parents[2] / "docs"

RULE = f"""Each statement below is about a difference between cells that drew the same prompts from the same noise.
It **{HOLDS}** where the whole {LEVEL:.0%} interval of that difference lies on the side that is said,
**{FAILS}** where the whole interval lies on the other side, and is **{UNDECIDED}** where the interval contains 0.
Precision and recall have no interval, and nothing is said of them.

FID of few images is too large. That cancels in a difference of two cells as far as their images vary alike, but not
where a cell may be worse by a share of another: such statements are about FID **without bias**, to first order (the
jackknife's)."""


MATCHED = "At equal effective scale:"
INTERPOLATED = """A rule without a cell at just that effective scale is read off the straight line between those next to
it. FID bends upwards along the scale, so that the line is above it: a rule is better than it looks here. The intervals
are of the samples alone."""
WITHOUT_NUMBERS = "## Without numbers"
GALLERY = f"""{WITHOUT_NUMBERS}

Each row is a prompt and its noise, each column a rule at a scale.

![the same prompts and noise under several rules](results/gallery.png)"""


def main(argv: list[str] | None = None) -> int:
    """Write the page; the exit status, 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="what run.py was given as --output")
    parser.add_argument("--evidence", type=Path, help="evidence.json, for the claim about rewards")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder for results.md and results/*.png")
    args = parser.parse_args(argv)
    try:
        record = read_record(args.runs / "results.json", "parts", "claims", "tuned")
        evidence = read_record(args.evidence, "arguments", "arms") if args.evidence else None
    except UserError as error:
        print(f"page.py: error: {one_line(error)}", file=sys.stderr)
        return 2
    parts, claims, tuned = record["parts"], record["claims"], record["tuned"]
    path, figures = args.docs / "results.md", args.docs / "results"
    figures.mkdir(parents=True, exist_ok=True)
    page = read_page(path, WITHOUT_NUMBERS)
    for name, claim in claims.items():
        page.rows[name] = row(name, CLAIMS[name].title, verdicts(claim))
        page.sections[name] = section(name, claim["statements"], parts, tuned, figures, page.sections.get(name, ""))
    if evidence:
        said_of_rewards = [one["verdict"] for one in rewarded.statements(evidence)]
        page.rows[rewarded.NAME] = row(rewarded.NAME, rewarded.TITLE, said_of_rewards)
        page.sections[rewarded.NAME] = rewarded.section(evidence)
    if draw_gallery(args.runs, figures / "gallery.png"):
        page.gallery = GALLERY
    page.parts |= {part: everything(part, results) for part, results in parts.items()}
    names = [name for name in (*CLAIMS, rewarded.NAME) if name in page.sections]
    blocks = [*head([page.rows[name] for name in names], [page.sections[name] for name in names]), page.gallery]
    blocks += [page.sections[name] for name in names]
    statements = {claim.parts[-1]: page.sections[name] for name, claim in CLAIMS.items() if name in page.sections}
    blocks.append(sampled_twice(page.parts, statements))
    blocks += [CELLS, *(page.parts[part] for part in PARTS if part in page.parts)]
    blocks.append("## Limits\n\n" + "\n".join(f"- {line}" for line in LIMITS))
    path.write_text("\n\n".join(filter(None, blocks)) + "\n", encoding="utf-8")
    return 0


def read_record(path: Path, *keys: str) -> dict[str, Any]:
    """A record with these keys. UserError: it cannot be read, or is another one."""
    record = read_json(path)
    if not isinstance(record, dict) or not set(keys) <= record.keys():
        raise UserError(
            f"{str(path)!r} has no {', '.join(keys)}: give what run.py, or with --evidence evidence.py, wrote"
        )
    return record


def row(name: str, title: str, verdicts: list[str]) -> str:
    """A claim in the table at the head of the page."""
    return table_row([f"[{title}](#{name})", *(str(verdicts.count(word)) for word in VERDICTS)])


def head(rows: list[str], sections: list[str]) -> list[str]:
    """The page's title, the verdicts of all claims, and the rule that they come from."""
    sizes = sorted({int(size) for section in sections for size in re.findall(r"\bn = (\d+)", section)})
    return [
        "# The papers' claims, measured",
        "Written by `python examples/results/page.py runs/results --evidence runs/evidence/evidence.json`; no number "
        f"was typed by hand but those of the papers. Cells have {' or '.join(map(str, sizes))} images. The commands "
        "below with a larger `--num-images` go on from there, and narrow the intervals.",
        "\n".join([table(["claim: its statements that", *VERDICTS], []), *rows]),
        RULE,
    ]


def section(
    name: str,
    statements: list[dict[str, Any]],
    parts: dict[str, Any],
    tuned: dict[str, Any],
    figures: Path,
    earlier: str,
) -> str:
    """One claim: the papers' figures, the statements, charts.

    tuned: comparisons that were read from the page; what is shown of them stays as in the earlier section.
    """
    claim, known = CLAIMS[name], {**tuned, **parts}
    lines = [f'## <a id="{name}"></a>{claim.title}']
    lines.append("Published:\n\n" + "\n".join(f"- {line}" for line in claim.published))
    measured = "; ".join(setting(part, known[part]) for part in claim.parts)
    lines.append(f"Measured, {measured}:\n\n{said(statements, parts)}")
    for number, chart in enumerate(claim.charts):
        file = f"{name}-{number}.png"
        if chart.part in parts:
            draw(parts[chart.part], chart, figures / file, tuned_scales(known) if chart.best else None)
        if (figures / file).is_file():
            lines.append(f"![{chart.metric} along {chart.along}, {known[chart.part]['model']}](results/{file})")
    if claim.matched:
        equal = matched(parts[claim.matched]) if claim.matched in parts else table_after(MATCHED, earlier)
        lines += [f"{MATCHED}\n\n{equal}", INTERPOLATED] * bool(equal)
    if claim.left_out:
        lines.append(f"Not measured: {claim.left_out}")
    return "\n\n".join(lines)


def everything(part: str, results: dict[str, Any]) -> str:
    """Every cell of a comparison, the command that makes it, and what its numbers depend on."""
    known = []
    for key, value in results["environment"].items():
        if key == "versions":
            value = ", ".join(f"{package} {number}" for package, number in value.items())
        if key == "intervals":
            value = f"{value['method']}, {value['replicates']} replicates"
        known.append(f"- {key}: {value}")
    lines = [f"### {part}", f"{setting(part, results)}:\n\n    {results['run']}"]
    lines.append(f"<details><summary>{len(results['cells'])} cells</summary>\n\n{cells(results)}\n\n</details>")
    return "\n\n".join([*lines, "What its numbers depend on:\n\n" + "\n".join(known)])


def verdicts(record: dict[str, Any]) -> list[str]:
    """Of the statements of a claim."""
    return [verdict(one["sign"], one["low"], one["high"]) for one in record["statements"]]


def setting(part: str, results: dict[str, Any]) -> str:
    """The model of a comparison, images of each cell, and seeds."""
    first, last = results["seeds"]
    return f"{part}: {results['model']}, n = {results['n']}, seeds {first} to {last}"


if __name__ == "__main__":
    sys.exit(main())
