"""What the README says is run as it stands there."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    ")]


@pytest.fixture(scope="module")
def executed():
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), namespace)
    return namespace


def test_python_runs(executed):
    assert executed["image"].size == (64, 64)
    assert executed["guided"].trace.evaluations == 18  # as the second example says


def test_the_rule_of_ones_own_caps_the_update(executed):
    from diffguide.pipelines import guide

    with guide(executed["pipe"], executed["CappedGuidance"](8.0)) as guided:
        guided("red apple", num_inference_steps=4)
    assert len(guided.trace) == 4
    assert all(step.update_norm.isfinite().all() for step in guided.trace)


@pytest.mark.parametrize(
    "command", [part.strip() for line in COMMANDS for part in line.split("&&") if "diffguide" in part]
)
def test_commands_are_ones_the_program_takes(command):
    from diffguide.eval.cli import build_parser

    program, *arguments = shlex.split(command)
    assert program == "diffguide"
    build_parser().parse(arguments)


def test_ci_runs_the_test_command():
    (command,) = [line for line in COMMANDS if "pytest" in line]
    assert command in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
