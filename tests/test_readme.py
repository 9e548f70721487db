"""What the README and the guide to choosing a rule say is run as it stands there."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHOOSING = (ROOT / "docs/choosing.md").read_text(encoding="utf-8")


def commands(text):
    return [line.strip() for line in re.sub("```.*?```", "", text, flags=re.DOTALL).splitlines() if line[:4] == " " * 4]


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


COMMANDS = commands(README)
PRESETS = re.findall(r"^\| [^|]+ \| `([^`]+)` \| ([\d.]+) \|", CHOOSING, re.MULTILINE)
ADVISED = re.findall(r"`([a-z-]+(?:[:+][^`]+)?)`", CHOOSING.split("Not advised")[0])


@pytest.fixture(scope="module")
def executed():
    """The names after each block."""
    namespace, after = {}, []
    for block in blocks(README):
        exec(compile(block, "README.md", "exec"), namespace)
        after.append(dict(namespace))
    return after


def test_python_runs(executed):
    first, composed, rewarded, _ = executed
    assert first["image"].size == composed["image"].size == rewarded["image"].size == (64, 64)
    assert composed["guided"].trace.evaluations == 18  # as the example says
    assert rewarded["guided"].trace.evaluations == 4
    assert all(step.reward_after >= step.reward for step in rewarded["guided"].trace)
    assert rewarded["best"].seed in range(4)


def test_the_rule_of_ones_own_caps_the_update(executed):
    from diffguide.pipelines import guide

    with guide(executed[0]["pipe"], executed[-1]["CappedGuidance"](8.0)) as guided:
        guided("red apple", num_inference_steps=4)
    assert len(guided.trace) == 4
    assert all(step.update_norm.isfinite().all() for step in guided.trace)


@pytest.mark.parametrize(
    "command",
    [part.strip() for line in (*COMMANDS, *commands(CHOOSING)) for part in line.split("&&") if "diffguide" in part],
)
def test_commands_are_ones_the_program_takes(command):
    from diffguide.eval.cli import build_parser

    program, *arguments = shlex.split(command)
    assert program == "diffguide"
    build_parser().parse(arguments)


def test_ci_runs_the_test_command():
    (command,) = [line for line in COMMANDS if "pytest" in line]
    assert command in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def stand_ins(monkeypatch):
    """A model of the hub is the embedded one of its kind."""
    from diffguide import pipelines

    def load(name, **options):
        return embedded("emoji-flow" if "diffusion-3" in name else "emoji-sd", **options)

    embedded = pipelines.load_pipeline
    monkeypatch.setattr(pipelines, "load_pipeline", load)


@pytest.mark.parametrize("block", blocks(CHOOSING))
def test_the_guide_runs(block, stand_ins):
    namespace = {}
    exec(compile(block, "choosing.md", "exec"), namespace)
    assert namespace["image"].size == (64, 64)


@pytest.mark.filterwarnings("ignore:every image was beyond threshold")  # it is of another model
def test_published_settings_run(stand_ins):
    from diffguide.pipelines import guide, load_pipeline
    from diffguide.pipelines.rules import parse_guidance

    assert len(PRESETS) == 14
    flow, diffusion = (load_pipeline(name, progress_bar=False) for name in ("stable-diffusion-3", "stable-diffusion"))
    for spec, scale in PRESETS:
        pipe = flow if spec.startswith(("raag", "cfg-zero")) else diffusion
        with guide(pipe, parse_guidance(spec, float(scale))) as guided:
            assert guided("red apple", num_inference_steps=2).images[0].size == (64, 64)


def test_the_guide_names_rules_that_there_are():
    from diffguide.pipelines.spelling import MODIFIERS, RULES, split_parts

    names = [spec for spec in ADVISED if spec not in MODIFIERS]
    assert len(set(names) & set(RULES)) >= 5
    for spec in names:
        split_parts(spec)
