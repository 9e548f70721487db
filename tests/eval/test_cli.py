import io
import json
import resource
import subprocess
import sys
import warnings

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffguide.eval import cli
from diffguide.eval.cli import main

MALFORMED = {
    "no command": "",
    "unknown command": "genrate apple",
    "unknown flag before": "--modle x generate apple",
    "no prompt": "generate",
    "empty prompt": ["generate", ""],
    "blank prompt": ["generate", "  "],
    "prompt without quotes": "generate red apple",
    "prompt is not Unicode": ["generate", "\udcff"],
    "prompt twice": "generate apple --prompt-file prompts.txt",
    "prompt file missing": "generate --prompt-file nowhere.txt",
    "prompt file empty": "generate --prompt-file empty.txt",
    "prompt file is a folder": "generate --prompt-file folder",
    "prompt file is binary": "generate --prompt-file plain.png",
    "unknown flag": "generate apple --guidence apg",
    "abbreviated flag": "generate apple --over",
    "flag without value": "generate apple --seed",
    "unknown rule": "generate apple --guidance aapg",
    "empty rule": ["generate", "apple", "--guidance", ""],
    "unknown option": "generate apple --guidance apg:etta=0",
    "option without value": "generate apple --guidance apg:eta",
    "option of the wrong type": "generate apple --guidance apg:eta=high",
    "option out of range": "generate apple --guidance apg:momentum=2",
    "option given twice": "generate apple --guidance apg:eta=0,eta=1",
    "option of native": "generate apple --guidance native:eta=0",
    "scale is a word": "generate apple --guidance-scale high",
    "scale is nan": "generate apple --guidance-scale nan",
    "scale is inf": "generate apple --guidance-scale inf",
    "scale is beyond float32": "generate apple --guidance-scale 1e39",
    "option is beyond float32": "generate apple --guidance apg:eta=1e300",
    "empty model": ["generate", "apple", "--model", ""],
    "empty picture": ["generate", "--from-image", ""],
    "empty prompt file": ["generate", "--prompt-file", ""],
    "empty source": ["evaluate", ""],
    "empty report": ["report", ""],
    "trace is a folder": "generate apple --trace .",
    "calibration with a comma": "calibrate linear-ag --steps 4 --prompt-file prompts.txt -o c,d.json",
    "unknown model": "generate apple --model emoji-ds",
    "no pipeline": "generate apple --model emoji-clip",
    "model folder without index": "generate apple --model folder",
    "model file of another kind": "generate apple --model prompts.txt",
    "model path missing": "generate apple --model ./nowhere",
    "model not there offline": "generate apple --model nobody/nothing",
    "unknown scheduler": "generate apple --scheduler dmp++",
    "scheduler for flows": "generate apple --scheduler flow-euler",
    "scheduler not for flows": "generate apple --model emoji-flow --scheduler ddim",
    "no steps": "generate apple --steps 0",
    "negative steps": "generate apple --num-inference-steps -5",
    "half a step": "generate apple --steps 2.5",
    "too many steps": "generate apple --steps 100000",
    "negative seed": "generate apple --seed -1",
    "seed is a word": "generate apple --seed lucky",
    "seed of thousands of digits": ["generate", "apple", "--seed", "9" * 5000],
    "seed and seeds": "generate apple --seed 1 --seeds 2-3",
    "seeds run backwards": "generate apple --seeds 5-1",
    "seeds malformed": "generate apple --seeds 1,,2",
    "seeds twice": "generate apple --seeds 0-3,2",
    "seeds too many": "generate apple --seeds 0-99999999999",
    "height not a multiple of 8": "generate apple --height 100",
    "width zero": "generate apple --width 0",
    "width absurd": "generate apple --width 1000000",
    "larger than the model's positions": "generate apple --model emoji-flow --height 512 --steps 1 --device cpu",
    "unknown dtype": "generate apple --dtype float23",
    "unknown device": "generate apple --device gpu",
    "device not here": "generate apple --device cuda:99",
    "offload on the CPU": "generate apple --device cpu --cpu-offload",
    "batch of none": "generate apple --batch-size 0",
    "output is a folder named .png": "generate apple --output folder.png",
    "output folder is a file": "generate apple --seeds 0-1 --output prompts.txt",
    "output below a file": "generate apple --output prompts.txt/x.png",
    "output of another format": "generate apple --output apple.jpg",
    "output empty": ["generate", "apple", "--output", ""],
    "output name too long": ["generate", "apple", "--output", "x" * 300 + ".png"],
    "output exists": "generate apple --output plain.png",
    "image missing": "generate --from-image nowhere.png",
    "image without settings": "generate --from-image plain.png",
    "image is no image": "generate --from-image prompts.txt",
    "image with absurd settings": "generate --from-image absurd.png",
    "image of an unknown rule": "generate --from-image foreign.png",
    "compare without guidance": "compare --output x",
    "compare without output": "compare --guidance cfg",
    "compare an unknown rule": "compare --guidance cgf --output x",
    "compare a rule twice": "compare --guidance cfg cfg --output x",
    "compare by an unknown metric": "compare --guidance cfg --metrics fidd --output x",
    "compare with an unknown extractor": "compare --guidance cfg --extractor inceptoin --output x",
    "compare with an unknown resize": "compare --guidance cfg --resize claen --output x",
    "compare with weights that are not there": "compare --guidance cfg --inception nowhere.pth --output x",
    "compare no images": "compare --guidance cfg --num-images 0 --output x",
    "compare an unknown model": "compare --guidance cfg --model emoji-ds --output x",
    "compare, prompt file missing": "compare --guidance cfg --prompt-file nowhere.txt --output x",
    "compare, reference missing": "compare --guidance cfg --reference nowhere --output x",
    "compare, images kept as jpg": "compare --guidance cfg --keep jpg --output x",
    "compare, reward of nothing": "compare --guidance cfg --metrics reward --output x",
    "compare, ssim without images": "compare --guidance cfg apg --metrics ssim --keep none --output x",
    "compare, seeds beyond the last": ["compare", "--guidance", "cfg", "--seed-start", str(2**63 - 2), "--output", "x"],
    "compare, too few images for fid": "compare --guidance cfg --metrics fid --num-images 2 --output x",
    "compare, too few images for recall": "compare --guidance cfg --metrics recall --num-images 3 --output x",
    "compare in a folder of too long a name": f"compare --guidance cfg --output {'x' * 300}",
    "compare in a folder of something else": "compare --guidance cfg --output pictures",
    "compare in a file": "compare --guidance cfg --output prompts.txt",
    "evaluate nothing": "evaluate",
    "evaluate what is not there": "evaluate nowhere",
    "evaluate, too long a name": f"evaluate {'x' * 300}",
    "evaluate, no such user": "evaluate ~nobodyxx/a",
    "evaluate an empty folder": "evaluate folder",
    "evaluate a text": "evaluate prompts.txt",
    "evaluate by an unknown metric": "evaluate pictures --metrics fidd",
    "evaluate without a reference": "evaluate pictures --metrics fid",
    "evaluate, reference missing": "evaluate pictures --reference nowhere",
    "evaluate, reference misspelt": "evaluate pictures --reference emojis",
    "evaluate, unknown extractor": "evaluate pictures --extractor inceptoin",
    "evaluate, unknown resize": "evaluate pictures --resize claen",
    "evaluate, no such weights": "evaluate pictures --inception nowhere.pth",
    "evaluate, prompt file missing": "evaluate pictures --prompts nowhere.txt",
    "evaluate, as many prompts as not images": "evaluate pictures --metrics clip_score --prompts prompts.txt",
    "evaluate, ssim with nothing": "evaluate pictures --metrics ssim",
    "evaluate, baseline missing": "evaluate pictures --metrics ssim --baseline nowhere",
    "evaluate, reward of nothing": "evaluate pictures --metrics reward",
    "evaluate, no batch": "evaluate pictures --batch-size 0",
    "evaluate, unknown device": "evaluate pictures --device gpu",
    "stats of nothing": "stats --output x.npz",
    "stats without output": "stats pictures",
    "stats of what is not there": "stats nowhere --output x.npz",
    "stats to another format": "stats pictures --output x.json",
    "stats below a missing folder": "stats pictures --output nowhere/x.npz",
    "stats over a file": "stats pictures --output old.npz",
    "stats with another's resize": "stats pictures --extractor clip --resize clean --output x.npz",
    "report of nothing": "report nowhere",
    "report of something else": "report pictures",
    "unknown section": "list ruls",
    "two sections": "list rules models",
    "unknown flag of list": "list --jsn",
}


@pytest.fixture
def desk(tmp_path, monkeypatch, embedded):
    """A folder with the files that the command lines name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("red apple\n")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "old.npz").write_bytes(b"")
    picture = Image.new("RGB", (8, 8))
    picture.save("plain.png")
    for name in ("a.png", "b.png"):
        picture.save(tmp_path / "pictures" / name)
    sound = {"prompt": "apple", "model": "emoji-sd", "seed": 0, "height": 64, "width": 64}
    for name, change in (("absurd", {"height": 10**9}), ("foreign", {"rule": "Mine"})):
        info = PngInfo()
        info.add_text("diffguide", json.dumps(sound | change))
        picture.save(f"{name}.png", pnginfo=info)
    return tmp_path


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED)
def test_a_mistake_is_one_line_and_status_2(desk, capfd, line):
    before = sorted(desk.rglob("*"))
    assert main(line.split() if isinstance(line, str) else line) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("diffguide: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sorted(desk.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("genrate", "did you mean 'generate'?"),
        ("generate apple --guidence apg", "unknown option --guidence: did you mean --guidance?"),
        ("generate apple --guidence=apg", "unknown option --guidence: did you mean --guidance?"),
        ("generate red apple", "put a prompt of several words in quotes"),
        ("generate apple --guidance aapg", "did you mean 'apg'?"),
        ("generate apple --guidance apg:moment=1", "did you mean 'momentum'?"),
        ("generate apple --guidance rescale+apg", "such as apg+rescale"),
        ("generate apple --scheduler dmp++", "did you mean 'dpm++'?"),
        ("generate apple --model emoji-ds", "did you mean 'emoji-sd'?"),
        ("generate apple --dtype float23", "did you mean 'float32'?"),
        ("generate apple --height 100", "96 would do"),
        ("compare --guidance cfg --negative-prompt red apple --output x", "put a prompt of several words in quotes"),
        ("compare --guidance cfg --metrics fidd --output x", "did you mean 'fid'?"),
        ("compare --guidance cfg --extractor inceptoin --output x", "did you mean 'inception'?"),
        ("evaluate pictures --resize claen", "did you mean 'clean'?"),
        ("evaluate pictures --reference emojis", "did you mean 'emoji'?"),
        ("evaluate pictures --metrics ssim", "--baseline IMAGES"),
        ("stats pictures --output old.npz", "give --overwrite or another --output"),
        ("rank apple --candidates 3 --top 4", "give a smaller --top or more --candidates"),
        (
            "evaluate pictures --metrics saturation --reward clip",
            "is measured by the metric reward, which is not",
        ),
        ("compare --guidance cfg --metrics saturation --reward clip --output x", "by the metric reward, which is not"),
        ("list ruls", "did you mean 'rules'?"),
        ("list rules rules", "unexpected argument 'rules': see diffguide list --help"),
    ],
)
def test_the_message_says_what_would_be_right(desk, capsys, line, hint):
    assert main(line.split()) == 2
    assert hint in capsys.readouterr().err


def test_help_and_version_answer_with_status_0(capsys):
    for line in (["--help"], ["generate", "--help"], ["list", "-h"], ["--version"]):
        assert main(line) == 0
    out = capsys.readouterr().out
    assert "diffguide 0." in out
    assert "--guidance-scale" in out


def run(*args, **kwargs):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=60, **kwargs)


def test_help_loads_neither_torch_nor_diffusers_and_takes_less_than_a_second_of_the_processor():
    code = (
        "import sys; from diffguide.eval.cli import main; main(['generate', '--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers', 'numpy')))"
    )
    assert run("-c", code).returncode == 0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("-m", "diffguide.eval.cli", "--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


CHEAP = (
    "generate apple --model emoji-ds",
    "compare --guidance cgf --output x",
    "compare --guidance cfg --reference nowhere --output x",
    "compare --guidance cfg --model emoji-ds --output x",
    "compare --guidance cfg --extractor inceptoin --output x",
    "evaluate nowhere",
    "evaluate . --reference nowhere",
    "evaluate . --metrics fidd",
    "evaluate . --extractor inceptoin",
    "stats nowhere --output x.npz",
    "stats . --output x.json",
    "report nowhere",
)


def test_a_cheap_mistake_is_told_without_loading_torch():
    code = (
        "import sys; from diffguide.eval.cli import main\n"
        f"for line in {CHEAP!r}: assert main(line.split()) == 2, line\n"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert run("-c", code).returncode == 0


def test_importing_the_pipelines_loads_neither_torch_nor_diffusers():
    code = "import sys, diffguide.pipelines; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert run("-c", code).returncode == 0


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m diffguide.eval.cli list schedulers | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 141)
    assert done.stderr == ""


def test_what_a_terminal_cannot_show_is_escaped(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["--version"]) == 0
    print("\u65e5\u672c")
    assert terminal.buffer.getvalue().endswith(b"\\u65e5\\u672c\n")


def test_warnings_of_this_package_are_one_line_and_those_of_others_as_they_are(capsys, monkeypatch):
    def run(args):
        for file in (cli.__file__, "elsewhere.py"):
            print(warnings.formatwarning("a scale of\n1", UserWarning, file, 1), end="", file=sys.stderr)
        return 0

    monkeypatch.setattr(cli.listing, "run", run)
    before = warnings.formatwarning
    assert main(["list", "rules"]) == 0
    assert capsys.readouterr().err == ("diffguide: warning: a scale of 1\nelsewhere.py:1: UserWarning: a scale of\n1\n")
    assert warnings.formatwarning is before
