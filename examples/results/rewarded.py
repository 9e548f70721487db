"""The claim about rewards, from the evidence.json of examples/train_lcd/evidence.py, which compares in its own way."""

from __future__ import annotations

from typing import Any

from claims import verdict
from tables import table

from diffguide.eval.bootstrap import LEVEL
from diffguide.eval.columns import MINUS

NAME, TITLE = "reward", "Rewards raise what they measure, and more than that if they are bounded"

PUBLISHED = (
    "RG-LCD: images in 2 steps are preferred to those of the teacher in 50; a latent proxy of the reward does away "
    "with high-frequency noise (arXiv 2403.11027, abstract; notes)",
    "ROCM: a divergence to the reference model keeps a reward from being hacked (arXiv 2503.06171, abstract; notes)",
)

STATEMENTS = (
    ("the best of 4 has more of the judge's score", "best of 4", "judge", 1),
    ("the reward's gradient raises the reward", "reward 0.3", "reward", 1),
    ("the reward's gradient raises the judge's score", "reward 0.3", "judge", 1),
    ("the reward's gradient adds high frequencies", "reward 0.3", "high_frequency", 1),
    ("with a bound on KL it raises the judge's score", "reward 0.3, KL 0.02", "judge", 1),
    ("with a bound on KL it has less {fd}", "reward 0.3, KL 0.02", "fd", -1),
    ("RG-LCD raises the judge's score", "rg-lcd", "judge", 1),
    ("RG-LCD adds high frequencies", "rg-lcd", "high_frequency", 1),
    ("RG-LCD by a latent proxy raises the judge's score", "rg-lcd-proxy", "judge", 1),
    ("RG-LCD by a latent proxy adds high frequencies", "rg-lcd-proxy", "high_frequency", 1),
    ("ROCM (KL) raises the judge's score", "rocm-kl", "judge", 1),
    ("ROCM (KL) has less {fd}", "rocm-kl", "fd", -1),
)
"""In words, {fd} being the Frechet distance; the arm; the metric; 1 for more, -1 for less than plain emoji-lcm."""

DIGITS = {"reward": 4, "judge": 4, "fd": 2, "high_frequency": 4}
"""The metrics of the table, and digits after the point."""

ABOUT = """The reward is the cosine of emoji-clip, which the arms see; the judge is emoji-judge, which no arm sees.
Each interval is that of the difference to plain emoji-lcm. `examples/train_lcd/README.md` has the trainings, which were
short."""


def statements(evidence: dict[str, Any]) -> list[dict[str, Any]]:
    """What is said of the arms that there are, each with its difference to the first arm and its verdict."""
    said = []
    for says, arm, metric, sign in STATEMENTS:
        if arm in evidence["arms"]:
            value, low, high = evidence["arms"][arm][metric]["difference"]
            says = says.format(fd=distance(evidence["arguments"]["extractor"]))
            said.append({"says": says, "metric": metric, "value": value, "verdict": verdict(sign, low, high)})
            said[-1] |= {"low": low, "high": high}
    return said


def section(evidence: dict[str, Any]) -> str:
    """The section of the page."""
    given = evidence["arguments"]
    lines = [f'## <a id="{NAME}"></a>{TITLE}', "Published:\n\n" + "\n".join(f"- {line}" for line in PUBLISHED)]
    rows = [[one["says"], _interval(one), one["verdict"]] for one in statements(evidence)]
    measured = f"n = {given['num_images']}, seed {given['seed']}: emoji-lcm and what was trained from it, in"
    lines.append(f"Measured, {measured} {given['steps']} evaluations at a scale of {given['guidance_scale']}. {ABOUT}")
    lines.append(table(["statement", f"difference [{LEVEL:.0%} interval]", "verdict"], rows))
    heads = ["", "reward", "judge", distance(given["extractor"]), "high frequencies", "precision", "recall", "s/image"]
    rows = [_row(name, arm) for name, arm in evidence["arms"].items()]
    lines.append(f"<details><summary>{len(rows)} arms</summary>\n\n{table(heads, rows)}\n\n</details>")
    return "\n\n".join([*lines, f"    {command(given)}"])


def distance(extractor: str) -> str:
    """What the Frechet distance of a network's features is called."""
    return "FID" if extractor == "inception" else f"FD, {extractor}"


def command(given: dict[str, str]) -> str:
    """The command line of evidence.py, from the texts of its arguments."""
    words = ["python examples/train_lcd/evidence.py"]
    for name, value in given.items():
        items = value.strip("[]").replace("'", "").split(", ") if value.startswith("[") else [value]
        words.append(" ".join([f"--{name.replace('_', '-')}", *filter(None, items)]))
    return " ".join(words)


def _row(name: str, arm: dict[str, Any]) -> list[str]:
    values = [_number(metric, arm[metric]["value"]) for metric in DIGITS]
    return [name, *values, *(f"{arm[metric]:.3f}" for metric in ("precision", "recall")), f"{arm['seconds']:.3g}"]


def _interval(one: dict[str, Any]) -> str:
    value, low, high = (_number(one["metric"], one[end]) for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _number(metric: str, value: float) -> str:
    return f"{value:.{DIGITS[metric]}f}".replace("-", MINUS)
