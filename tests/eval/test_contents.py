"""A run does not go on with files that have changed, and its command makes its plan again."""

import json
import shlex
from dataclasses import asdict

import pytest

from diffguide.eval import compare_rules
from diffguide.eval.cli import build_parser
from diffguide.eval.compare import OPTIONS
from diffguide.eval.comparison import compare, make_plan
from diffguide.eval.contents import plan_contents
from diffguide.eval.grid import check_folder
from diffguide.eval.plan import Cell, Plan
from diffguide.eval.store import Store
from diffguide.guidance import Coefficients
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.hashing import BLOCKS, WHOLE, content_hash


def coefficients(path, weight):
    rows = ((), ((weight, 0.0), (1.0 - weight,)))
    Coefficients(rows, "", "", 2, "", 2.0, 1, (0.0, 0.1)).save(path)
    return path


def noted(plan, folder):
    """The plan as a run of it in `folder` has it after its first batch."""
    plan = Plan.from_dict({**plan.to_dict(), "files": plan_contents(plan)})
    batch = Store(folder, plan).batch_path(0, 0)
    batch.parent.mkdir(parents=True)
    batch.touch()
    (folder / "plan.json").write_text(json.dumps(plan.to_dict()))
    return plan


def test_changed_coefficients_are_refused_and_restored_ones_are_not(tiny_plan, tmp_path):
    path, run = coefficients(tmp_path / "c.json", 0.25), tmp_path / "run"
    plan = tiny_plan([f"linear-ag:coefficients={path}"], [2.0], num_images=2)
    results = compare(plan, run)
    assert f"content of {path}" in results["environment"]
    coefficients(path, 0.5)
    with pytest.raises(UserError, match=r"c\.json' has changed since the comparison in .* restore it, or give --over"):
        compare(plan, run)
    coefficients(path, 0.25)
    assert compare(plan, run) == results


def test_every_kind_of_path_is_noted(tiny_sd, tiny_clip, pictures, tmp_path):
    statistics = tmp_path / "ref.npz"
    statistics.write_bytes(b"one")
    asked = {"reference": str(statistics), "metrics": ["cmmd", "reward"], "prompts": ["a"]}
    asked |= {"clip": str(tiny_clip), "reward": "clip", "model": str(tiny_sd), "steps": [2]}
    plan = make_plan([f"cfg+reward:reward=clip:{tiny_clip}"], **asked)
    first = plan_contents(plan)
    assert first.keys() == {str(statistics), str(tiny_clip), str(tiny_sd), "reward clip"}
    plan = noted(plan, tmp_path / "run")
    statistics.write_bytes(b"two")
    now = plan_contents(plan)
    assert {name for name in first if first[name] != now[name]} == {str(statistics)}
    with pytest.raises(UserError, match=r"ref\.npz' has changed"):
        check_folder(tmp_path / "run", Plan.from_dict({**plan.to_dict(), "files": now}))


@pytest.mark.parametrize("name", ["my_reward", "my_package.rewards"])
def test_the_file_of_a_reward_of_ones_own_is_noted(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"{name.replace('.', '/')}.py"
    file.parent.mkdir(exist_ok=True)
    (file.parent / "__init__.py").write_text("raise SystemExit('a package that is run')")
    file.write_text("def redness(images): return images[:, 0].mean((1, 2))")
    plan = make_plan([f"cfg+reward:reward={name}:redness"], [4.0], [2], metrics=["reward"], reward=f"{name}:redness")
    first = plan_contents(plan)
    assert f"{name}:redness" in first
    file.write_text("def redness(images): return 255 * images[:, 0].mean((1, 2))")
    assert {key for key, value in plan_contents(plan).items() if first[key] != value} == {f"{name}:redness"}


@pytest.mark.parametrize("rule", ["ag", "linear-ag"])
def test_calibrations_that_ship_are_noted_and_others_are_not(rule, trained, copy_of, monkeypatch):
    from diffguide.pipelines import embedded

    monkeypatch.setattr(embedded, "MODELS", copy_of(trained))
    plan = make_plan(["cfg", rule], [4.0], [20], num_images=2, metrics=["clipping"])
    first = plan_contents(plan)
    assert list(first) == ["emoji-sd/*.safetensors", f"emoji-sd/calibration/{rule}-*.json for 20 steps"]
    file = embedded.MODELS / "emoji-sd" / "calibration" / f"{rule}-20.json"
    record = json.loads(file.read_text())
    record["threshold" if rule == "ag" else "guidance_scale"] = 0.5
    file.write_text(json.dumps(record))
    weights = "emoji-sd/*.safetensors"
    now = plan_contents(plan)
    assert {name for name in first if first[name] != now[name]} == set(first) - {weights}
    assert list(plan_contents(make_plan(["cfg", "ag:threshold=0.9"], [4.0], [20], metrics=["clipping"]))) == [weights]
    for part in ("emoji-sd/unet", "emoji-vae", "emoji-clip"):
        (path,) = (embedded.MODELS / part).glob("*.safetensors")
        path.write_bytes(path.read_bytes()[:-1])
        assert plan_contents(plan)[weights] != now[weights]
        now = plan_contents(plan)


def test_runs_of_an_earlier_format_do_not_go_on(tiny_plan, tmp_path):
    plan = make_plan(["cfg", "apg"], num_images=4, metrics=["clipping"])
    for name, one in (("emoji-sd", plan), ("tiny-sd", tiny_plan())):
        now = noted(one, tmp_path / name)
        earlier = {key: value for key, value in now.to_dict().items() if key != "files"}
        grown = Plan.from_dict({**now.to_dict(), "cells": [*now.to_dict()["cells"], asdict(Cell("raag", 4.0, 20))]})
        for noted_then in ({}, {"files": {}}) if name == "emoji-sd" else ({},):
            (tmp_path / name / "plan.json").write_text(json.dumps(earlier | noted_then))
            for wanted in (now, grown):
                with pytest.raises(UserError, match=rf"an earlier diffguide began .* did not note what '.*{name}"):
                    check_folder(tmp_path / name, wanted)


def test_a_changed_prompt_file_is_named(tiny_sd, tmp_path):
    file = tmp_path / "prompts.txt"
    asked = {"model": str(tiny_sd), "prompt_file": str(file), "num_images": 4, "metrics": ["clipping"]}
    file.write_text("red apple\nred apple\ngreen pear\n")
    plan = make_plan(["cfg"], **asked)
    assert plan.prompts == ("red apple", "red apple", "green pear")
    noted(plan, tmp_path / "run")
    file.write_text("red apple\nblue pear\n")
    with pytest.raises(UserError, match=r"green pear there, blue pear here of '.*prompts\.txt'"):
        check_folder(tmp_path / "run", make_plan(["cfg"], **asked))


def test_a_hash_tells_names_and_contents_and_samples_what_is_large(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    file = folder / "sub" / "a.bin"
    file.write_bytes(b"one")
    first = content_hash(folder)
    (folder / ".hidden").write_bytes(b"x")
    assert content_hash(folder) == first
    file.rename(folder / "sub" / "b.bin")
    assert content_hash(folder) != first
    large = tmp_path / "large"
    with open(large, "wb") as opened:
        opened.truncate(WHOLE + 1)
    before = content_hash(large)
    for position in (0, WHOLE // (BLOCKS - 1), WHOLE):
        with open(large, "r+b") as opened:
            opened.seek(position)
            opened.write(b"\1")
        assert content_hash(large) != before
        before = content_hash(large)


def parsed(line):
    args = build_parser().parse(line)
    return make_plan(**{name: getattr(args, name) for name in OPTIONS})


def test_prompts_of_a_list_are_kept_and_the_command_makes_the_plan_again(tiny_sd, tmp_path, monkeypatch):
    prompts = ["red apple", ' café "ours" ', "red apple"]
    asked = {"model": str(tiny_sd), "guidance_scale": [2.1234567], "steps": [2], "num_images": 3, "prompts": prompts}
    asked |= {"metrics": ["clipping"], "device": "cpu", "negative_prompt": "-$5 `a` \\"}
    results = compare_rules(["cfg"], tmp_path / "run", **asked)
    assert (tmp_path / "run" / "prompts.txt").read_text(encoding="utf-8") == 'red apple\ncafé "ours"\nred apple\n'
    monkeypatch.chdir(tmp_path / "run")
    again = parsed([*shlex.split(results["command"])[1:], "--output", "x"])
    assert again == make_plan(["cfg"], **asked)
    assert compare(again, tmp_path / "run") == results
    assert compare(again, tmp_path / "run", overwrite=True)["command"] == results["command"]
    assert (tmp_path / "run" / "prompts.txt").is_file()


@pytest.mark.parametrize("prompt", ["two\nlines", "", "a\u2028b", "a\0b"])
def test_prompts_that_a_line_cannot_hold_are_refused(prompt, tiny_sd):
    with pytest.raises(UserError, match="a prompt is one line of text"):
        make_plan(["cfg"], model=str(tiny_sd), prompts=["fine", prompt], metrics=["clipping"])


def test_composed_rules_and_the_native_one_stand_side_by_side(tiny_plan, tiny_clip, digest, tmp_path):
    reward = f"reward:reward=clip:{tiny_clip},strength=0.2"
    rules = ["cfg", "native", "apg+interval:stop=0.5", f"cfg+{reward}", f"apg:eta=0.5+{reward}+rescale:phi=0.5"]
    plan, run = tiny_plan(rules, [4.0], num_images=2, metrics=("saturation", "ssim")), tmp_path / "run"
    results = compare(plan, run)
    cells = {cell["guidance"]: cell["metrics"] for cell in results["cells"]}
    assert list(cells) == plan.guidances
    evaluations = [metrics["evaluations"]["value"] for metrics in cells.values()]
    assert evaluations[:2] == [4, 4]  # what the hooks count in the native pipeline is what the trace of cfg says
    assert cells["native"]["ssim"]["value"] == pytest.approx(1, abs=1e-3)
    assert cells[plan.guidances[3]]["ssim"]["value"] < 1
    assert [len(row.split(",")) > 9 for row in (run / "results.csv").read_text().splitlines()] == [True] * 6
    page, before = (run / "report.html").read_text(), digest(run)
    assert all(guidance in page for guidance in plan.guidances)
    assert len(list((run / "cells").glob("*/images/*.png"))) == 10
    (run / "cells" / plan.folder(4) / "batches" / "00000.npz").unlink()
    compare(plan, run)
    assert digest(run) == before


@pytest.mark.slow
def test_emoji_lcm_pays_one_evaluation_a_step_and_has_no_effective_scale(tmp_path):
    rules = ["native", "reward:reward=clip,strength=0.2"]
    asked = {"model": "emoji-lcm", "steps": [4], "num_images": 2, "metrics": ["saturation"], "device": "cpu"}
    results = compare_rules(rules, tmp_path / "run", **asked)
    assert [cell["metrics"]["evaluations"]["value"] for cell in results["cells"]] == [4, 4]
    assert "effective_scale" not in results["metrics"]
