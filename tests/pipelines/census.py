"""Every pipeline class of the installed diffusers that has guidance, read from its source, and docs/pipelines.md.

python tests/pipelines/census.py --write      writes docs/pipelines.md and pipelines/table_tested.py anew
"""

import functools
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "pipelines.md"
TESTED = ROOT / "pipelines" / "table_tested.py"
GUIDANCE = re.compile(r"do_classifier_free_guidance|noise_pred_uncond|true_cfg|guidance_scale|\bguider\b")
"""What a class with guidance says somewhere in its source."""


@functools.cache
def pipeline_classes() -> dict[str, str]:
    """The names of all pipeline classes, exported by diffusers or not, and the source of each."""
    import diffusers

    bases: dict[str, list[str]] = {}
    sources: dict[str, str] = {}
    for path in sorted((Path(diffusers.__file__).parent / "pipelines").rglob("*.py")):
        for source in re.split(r"^(?=class )", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            if heading := re.match(r"class (\w+)\(([^)]*)\):", source):
                bases[heading[1]] = [base.strip().rsplit(".", 1)[-1] for base in heading[2].split(",")]
                sources[heading[1]] = source
    return {name: source for name, source in sources.items() if _is_pipeline(name, bases)}


def guided_classes() -> list[str]:
    """Those with guidance."""
    return sorted(name for name, source in pipeline_classes().items() if GUIDANCE.search(source))


def _is_pipeline(name: str, bases: dict[str, list[str]]) -> bool:
    return name in bases and any(base == "DiffusionPipeline" or _is_pipeline(base, bases) for base in bases[name])


def written_table(tested: set[str]) -> str:
    """pipelines/table_tested.py: which classes the tests run."""
    names = "".join(f'        "{name}",\n' for name in sorted(tested))
    return (
        '"""The pipeline classes that the tests run, written by tests/pipelines/census.py."""\n\n'
        f"TESTED: frozenset[str] = frozenset(\n    {{\n{names}    }}\n)\n"
    )


def document(tested: set[str]) -> str:
    """docs/pipelines.md, from the table and from the tiny pipelines of the tests."""
    from diffusers import __version__

    from diffguide.pipelines.listing import pipelines

    rows = pipelines()
    guided = [row for row in rows if not row["refused"]]
    refused = [row for row in rows if row["refused"]]
    run = sum(row["class_name"] in tested for row in guided)
    lines = [
        "# Pipelines",
        "",
        f"Every pipeline class of diffusers {__version__} that has guidance of its own. Written by",
        "`python tests/pipelines/census.py --write` from the table of layouts and from the tests; do not edit.",
        "",
        f"{len(guided)} classes take a rule: {run} are run in the tests, as tiny random pipelines against their own",
        f"guidance, the others evaluate their denoiser in the same way as one that is. {len(refused)} are refused.",
        "",
        "| class | layout | run in the tests |",
        "|---|---|---|",
    ]
    for row in sorted(guided, key=lambda row: row["class_name"]):
        lines.append(
            f"| {row['class_name']} | {row['layout']} | {'yes' if row['class_name'] in tested else 'by family'} |"
        )
    lines += ["", "## Refused", ""]
    for reason in dict.fromkeys(row["refused"] for row in refused):
        names = [row["class_name"] for row in refused if row["refused"] == reason]
        lines += [f"- {', '.join(names)}: {reason}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--write" in sys.argv:
        from families import classes_run

        tested = classes_run()
        DOCUMENT.write_text(document(tested), encoding="utf-8")
        TESTED.write_text(written_table(tested), encoding="utf-8")
    else:
        print("\n".join(guided_classes()))
