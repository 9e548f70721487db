"""Pictures whose settings name what is not diffguide's own: what they may ask for, and what only the user may."""

import json
import shlex
import sys

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffguide.eval.cli import build_parser, main
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.request import make_request, read_prompts
from diffguide.pipelines.rules import named_reward

SOUND = {"prompt": "apple", "model": "emoji-sd", "seed": 0, "height": 64, "width": 64}


@pytest.fixture
def here(tmp_path, monkeypatch, embedded):
    """A folder with the module `evil`, and no model to be loaded."""

    def load(*args, **kwargs):
        raise UserError("a model would be loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    named_reward.cache_clear()
    monkeypatch.setattr("diffguide.pipelines.loading.load_pipeline", load)
    (tmp_path / "evil.py").write_text(
        "open('ran', 'w').close()\n\ndef go(images):\n    return images.mean((1, 2, 3))\n"
    )
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    yield tmp_path
    sys.modules.pop("evil", None)


def picture(**settings):
    info = PngInfo()
    info.add_text("diffguide", json.dumps(SOUND | settings))
    Image.new("RGB", (8, 8)).save("x.png", pnginfo=info)
    return ["generate", "--from-image", "x.png"]


def rewarded(reward):
    return {"rule": "reward", "options": {"reward": reward, "strength": 0.2}}


@pytest.mark.parametrize(
    "settings",
    [
        rewarded("evil:go"),
        {"rule": "apg", "modifiers": {"reward": {"reward": "evil:go"}}},
        {"rule": "apg", "options": {"eta": "0+reward:reward=evil:go"}},
        {"rule": "apg", "modifiers": {"rescale": {"phi": "0.5+reward:strength=0.1,reward=evil:go"}}},
        {"rule": "apg+reward:reward=evil:go"},
    ],
)
def test_a_picture_runs_no_code(here, capsys, settings):
    assert main(picture(**settings)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (here / "ran").exists()
    assert "evil" not in sys.modules


def test_what_a_picture_names_is_run_where_the_command_line_says_so(here, capsys):
    line = picture(rule="apg", options={"eta": 0.5}, modifiers={"reward": {"reward": "evil:go", "strength": 0.2}})
    assert main(line) == 2
    err = capsys.readouterr().err
    assert "'x.png' names the reward 'evil:go'" in err
    words = shlex.split(err[err.index("--guidance") :])
    assert words == ["--guidance", "apg:eta=0.5+reward:reward=evil:go,strength=0.2"]
    assert main([*line, *words]) == 2
    assert "a model would be loaded" in capsys.readouterr().err
    assert (here / "ran").exists()
    assert main([*line, "--guidance", "cfg"]) == 2
    assert "a model would be loaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    "reward",
    ["this:d", "weights", "./weights", "clip:weights", "owner/name", "clip:owner/name", "hpsv2:weights/x.pt",
     "imagereward:weights", "aesthetic:weights", "pickscore:weights"],
)  # fmt: skip
def test_only_the_user_names_code_and_weights_of_others(here, capsys, reward):
    assert main(picture(**rewarded(reward))) == 2
    expected = (
        f"the reward '{reward}', whose code or weights diffguide does not know: if you trust them, add --guidance"
    )
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("reward", ["clip", "emoji-clip", "pickscore", "hpsv2", "imagereward", "aesthetic"])
def test_rewards_of_the_table_are_taken_from_a_picture(here, reward):
    request = make_request(build_parser().parse(picture(**rewarded(reward))))
    assert request.guidance == f"reward:reward={reward},strength=0.2"


def test_text_that_no_terminal_should_see_is_escaped(here, capsys):
    assert main(picture(rule="apg", options={"eta": "\x1b[2J"}, modifiers={"reward": {"reward": "evil:go"}})) == 2
    err = capsys.readouterr().err
    assert "\\x1b[2J" in err
    assert err[:-1].isprintable()


def test_a_table_is_not_read_as_prompts(tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "red apple"}')
    with pytest.raises(UserError, match=r"prompts\.jsonl' is no plain text: it should have one prompt a line"):
        read_prompts(tmp_path / "prompts.jsonl")


def test_a_line_ends_at_the_end_of_a_line(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("one\u2028prompt\r\nanother\x85one\n".encode())
    assert read_prompts(tmp_path / "prompts.txt") == ["one\u2028prompt", "another\x85one"]
