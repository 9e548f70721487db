"""`diffguide rank` with people and rewards, in processes of their own where standard input is the thing."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffguide.eval.cli import main
from diffguide.guidance import ClassifierFreeGuidance
from diffguide.pipelines import guide, load_pipeline
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.initial_noise import initial_noise
from diffguide.pipelines.metadata import read_settings
from diffguide.pipelines.rank_folder import RankFolder
from diffguide.pipelines.rank_session import parse_order
from diffguide.pipelines.scoring import to_pictures

COMMAND = ["rank", "red apple", "--steps", "2", "--candidates", "3", "--top", "2", "--batch-size", "4", "-o", "out"]
COMMAND += ["--device", "cpu"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rank(monkeypatch):
    """Runs the command with the lines that a person writes; its exit status."""

    def run(lines, *extra):
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return main([*COMMAND, *extra])

    return run


def files():
    return sorted(path.name for path in Path("out").iterdir())


def point():
    return load_file("out/state.safetensors")["point"]


def test_a_person_ranks_and_the_best_picture_is_that_of_the_noise_beside_it(rank, capsys):
    assert rank("2 3\n1\n\n", "--rounds", "4", "--seed", "3", "--negative-prompt", "worm") == 0
    out, err = capsys.readouterr()
    assert out.split() == ["out/sheet.png"] * 3 + ["out/best.png"]
    assert "round 1 of 4: the best 2, best first (1 to 3; empty" in err
    assert "round 1 of 4: the best one (1 to 6; empty" in err
    assert "after 1 of 4 rounds" in err
    assert files() == ["best.png", "best.safetensors", "sheet.png", "state.safetensors"]
    settings = read_settings(Path("out/best.png"))
    assert (settings.noise, settings.seed, settings.steps, settings.rule) == ("best.safetensors", 3, 2, "cfg")
    assert (settings.negative_prompt, settings.evaluations) == ("worm", 4)
    with Image.open("out/best.png") as image:
        assert "Initial noise: best.safetensors" in image.info["parameters"]
        pixels = image.tobytes()
    pipe = load_pipeline("emoji-sd", progress_bar=False, device="cpu")
    run = {"num_inference_steps": 2, "negative_prompt": "worm", "output_type": "pt"}
    latents = load_file("out/best.safetensors")["latents"]
    assert torch.allclose(latents[0], point())
    with guide(pipe, ClassifierFreeGuidance(4.0)) as guided:
        start = initial_noise(guided, "red apple", 3, run)
        again = guided("red apple", **start.arguments(latents), **run).images
    assert to_pictures(again)[0].tobytes() == pixels


def test_that_picture_is_not_made_again_from_its_seed(rank, capsys):
    assert rank("") == 0
    capsys.readouterr()
    assert main(["generate", "--from-image", "out/best.png", "-o", "again.png"]) == 2
    err = capsys.readouterr().err
    assert "searched for its initial noise, which no seed gives" in err
    assert err.count("\n") == 1
    assert not Path("again.png").exists()


def test_the_input_of_a_person_in_a_process_of_its_own(here):
    """What is wrong is said and asked again; the end of the input is a good end."""
    command = [sys.executable, "-m", "diffguide.eval.cli", *COMMAND, "--rounds", "5"]
    lines = "9\nred\n1 1\n1 2 3\n3, 1\n1 2\n6\n"
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    for complaint in (
        "there is no picture 9: they are 1 to 3",
        "'red' is not the number of a picture: write up to 2 numbers",
        "picture 1 is named twice",
        "3 pictures are named: write up to 2",
        "2 pictures are named: write one number",
    ):
        assert f"diffguide: {complaint}" in done.stderr.replace("quit): ", "\n")
    assert done.stdout.split() == ["out/sheet.png"] * 3 + ["out/best.png"]
    assert "Traceback" not in done.stderr


def test_a_second_search_in_one_folder_is_refused_and_what_the_first_left_stays(rank, capsys):
    with RankFolder(Path("out"), {}).held():
        assert rank("2 3\nq\n", "--overwrite") == 2
        assert "another search is at work in 'out'" in capsys.readouterr().err
        assert files() == [".diffguide.lock"]
    assert rank("2 3\n1\n1 2\n4\n", "--rounds", "2") == 0
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    late = RankFolder(Path("late"), {})  # looked at the folder before the other one began to write
    Path("out").rename("late")
    with pytest.raises(UserError, match="exists already"), late.held():
        pass
    assert {Path("out") / path.name: path.read_bytes() for path in Path("late").iterdir()} == before


def test_interrupted_and_resumed_is_as_never_interrupted(rank, capsys):
    assert rank("2 3\n1\n1 2\n4\n", "--rounds", "2") == 0
    expected, best = point(), Path("out/best.png").read_bytes()
    assert rank("2 3\nq\n", "--rounds", "2", "--overwrite") == 0
    assert files() == ["sheet.png", "state.safetensors"]
    assert "0 of 2 rounds are kept: --resume goes on" in capsys.readouterr().err
    assert rank("1\n", "--rounds", "2", "--resume") == 0
    assert rank("1 2\n4\n", "--rounds", "2", "--resume") == 0
    assert torch.equal(point(), expected)
    assert Path("out/best.png").read_bytes() == best
    assert rank("q\n", "--rounds", "2", "--overwrite") == 0  # before the first answer
    assert rank("2 3\n1\n1 2\n4\n", "--rounds", "2", "--resume") == 0
    assert torch.equal(point(), expected)


def test_a_reward_ranks_unattended(capsys):
    code = "def red(images):\n    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))\n"
    Path("diffguide_test_reward.py").write_text(code)
    sys.path.insert(0, "")
    try:
        assert main([*COMMAND, "--rounds", "3", "--reward", "diffguide_test_reward:red"]) == 0
    finally:
        sys.path.remove("")
        sys.modules.pop("diffguide_test_reward", None)
    out, err = capsys.readouterr()
    assert out == "out/best.png\n"
    rewards = [float(line.split()[-1]) for line in err.splitlines() if ": reward " in line]
    assert len(rewards) == 3
    assert rewards == sorted(rewards)
    with Image.open("out/best.png") as image:
        r, g, b = (sum(band.tobytes()) / 255 / 64**2 for band in image.split())
    assert rewards[-1] == pytest.approx(r - (g + b) / 2, abs=0.01)


def test_the_reward_of_the_rule_goes_where_the_pipeline_is_before_it_is_asked():
    code = """
class Red:
    name, differentiable, space, needs_prompts = "red", True, "image", False
    place = None

    def to(self, device):
        self.place = str(device)

    def __call__(self, images, prompts=None):
        assert self.place == "cpu"
        return images[:, 0].mean((1, 2))


red = Red()
"""
    Path("diffguide_placed_reward.py").write_text(code)
    try:
        rule = ["--guidance", "reward:reward=diffguide_placed_reward:red"]
        assert main([*COMMAND, "--rounds", "1", "--reward", "diffguide_placed_reward:red", *rule]) == 0
    finally:
        sys.modules.pop("diffguide_placed_reward", None)


MISTAKES = {
    "no prompt": "rank",
    "blank prompt": ["rank", "  "],
    "unknown rule": "rank apple --guidance agp",
    "unknown model": "rank apple --model emoji-ds",
    "unknown reward": "rank apple --reward clpi",
    "one candidate": "rank apple --candidates 1 --top 1",
    "top above candidates": "rank apple --candidates 4 --top 5",
    "no rounds": "rank apple --rounds 0",
    "spread of nothing": "rank apple --spread 0",
    "spread is a word": "rank apple --spread wide",
    "several seeds": "rank apple --seeds 0-3",
    "nothing to resume": "rank apple --resume",
    "resume and overwrite": "rank apple --resume --overwrite",
    "a search is there": "rank apple --output old",
    "another search is there": "rank apple --output old --resume",
    "output is a file": "rank apple --output plain",
    "output below a file": "rank apple --output plain/below",
}


@pytest.fixture
def torchless(monkeypatch):
    """A mistake that these lines hold is found without loading a model."""
    monkeypatch.setattr("diffguide.pipelines.loading.load_pipeline", lambda *args, **options: pytest.fail("it loads"))


@pytest.mark.parametrize("line", [line for name, line in MISTAKES.items() if name != "another search is there"])
def test_a_mistake_is_one_line_and_status_2(here, capfd, line, torchless):
    (here / "plain").touch()
    (here / "old").mkdir()
    (here / "old" / "state.safetensors").touch()
    before = sorted(here.rglob("*"))
    assert main(line.split() if isinstance(line, str) else line) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("diffguide: error: ")
    assert err.count("\n") == 1
    assert sorted(here.rglob("*")) == before


def test_arguments_are_checked_without_torch(here):
    code = "import sys; from diffguide.eval.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    for line in ("rank apple --resume", "rank apple --reward clpi", "rank apple --top 9"):
        done = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, text=True, timeout=60)
        assert done.stdout == "False\n", line


def test_the_state_of_another_search_is_not_gone_on_with(rank, capsys):
    assert rank("1\n1\n", "--rounds", "1") == 0
    assert rank("", "--rounds", "1", "--resume", "--seed", "5") == 2
    assert "is of a search with another seed" in capsys.readouterr().err
    assert rank("", "--rounds", "1", "--resume", "--height", "128") == 2
    assert "is of a search with another height" in capsys.readouterr().err
    Path("out/state.safetensors").write_bytes(b"nothing")
    assert rank("", "--resume") == 2
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "order"), [("3 1 5", [2, 0, 4]), (" 3,1 , 5\n", [2, 0, 4]), ("8", [7]), ("1 2 3\r\n", [0, 1, 2])]
)
def test_orders_are_read(line, order):
    assert parse_order(line, 8, 3) == order


@pytest.mark.parametrize("line", ["0", "9", "-1", "1.5", "a", "1 1", "1 2 3 4", "9" * 5000, "²", ","])
def test_what_is_no_order_is_refused(line):
    with pytest.raises(UserError):
        parse_order(line, 8, 3)


def test_settings_with_noise_are_read_as_they_were_written(rank):
    assert rank("") == 0
    with Image.open("out/best.png") as image:
        assert json.loads(image.info["diffguide"])["noise"] == "best.safetensors"
