import json

import pytest

from diffguide.eval.cli import main
from diffguide.guidance import AdaptiveProjectedGuidance
from diffguide.pipelines.embedded import EMBEDDED
from diffguide.pipelines.listing import SECTIONS
from diffguide.pipelines.rewards import REWARDS
from diffguide.pipelines.rule_names import MODIFIERS, RULES
from diffguide.pipelines.schedulers import SCHEDULERS
from diffguide.pipelines.table import TABLE


def listed(capsys, *args):
    assert main(["list", *args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_all_sections_are_listed(capsys, embedded):
    records = listed(capsys)
    assert list(records) == list(SECTIONS)
    assert [row["name"] for row in records["rules"]] == [*RULES, *MODIFIERS, "native"]
    assert [row["name"] for row in records["models"]] == list(EMBEDDED)
    assert [row["name"] for row in records["schedulers"]] == list(SCHEDULERS)
    assert [row["class_name"] for row in records["pipelines"]] == [name for row in TABLE for name in row.classes]


def test_options_have_the_defaults_of_the_class(capsys):
    [apg] = [row for row in listed(capsys, "rules")["rules"] if row["name"] == "apg"]
    assert apg["paper"] == "2410.02416"
    defaults = vars(AdaptiveProjectedGuidance())
    assert apg["options"] == {name: value for name, value in defaults.items() if name != "guidance_scale"}


def test_a_required_option_shows_no_default(capsys):
    [reward] = [row for row in listed(capsys, "rules")["rules"] if row["name"] == "reward"]
    assert (reward["required"], reward["options"]["reward"]) == (["reward"], None)
    assert main(["list", "rules"]) == 0
    assert "reward=..., strength=0.1, ascent_steps=1" in capsys.readouterr().out


def test_sizes_are_those_of_the_files(capsys, embedded):
    sizes = {row["name"]: row["bytes"] for row in listed(capsys, "models")["models"]}
    parts = {
        folder.name: sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) for folder in embedded.iterdir()
    }
    assert sizes["emoji-sd"] == parts["emoji-sd"] + parts["emoji-vae"] + parts["emoji-clip"]
    assert sizes["emoji-clip"] == parts["emoji-clip"]


@pytest.mark.parametrize("section", [[], *([name] for name in SECTIONS)])
def test_the_text_names_everything(capsys, section):
    assert main(["list", *section]) == 0
    out = capsys.readouterr().out
    names = {
        "rules": [*RULES, *MODIFIERS],
        "models": list(EMBEDDED),
        "schedulers": list(SCHEDULERS),
        "rewards": list(REWARDS),
        "pipelines": [name for layout in TABLE for name in layout.classes],
    }
    for name in [name for key in section or names for name in names[key]]:
        assert name in out
    assert max(map(len, out.splitlines())) < 1000
