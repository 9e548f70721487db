"""The folder of a comparison: held by one process, overwritten only if asked, usable after a start that failed."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from diffguide.eval import files as files_module
from diffguide.eval import sampler
from diffguide.eval.comparison import compare
from diffguide.eval.report import write_report
from diffguide.pipelines.errors import UserError


def test_a_comparison_at_work_is_not_overwritten_and_a_finished_one_is(finished_run, tiny_plan, tmp_path):
    plan, whole = finished_run
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    before = sorted(path.name for path in folder.iterdir())
    with files_module.locked(folder):
        for other in (plan, tiny_plan(num_images=2)):
            with pytest.raises(UserError, match="another compare is at work"):
                compare(other, folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == before
    (folder / "plan.json").write_text("{")  # damaged
    assert compare(tiny_plan(num_images=2), folder, overwrite=True)["n"] == 2
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="holds something else"):
        compare(plan, tmp_path / "photos", overwrite=True)
    assert os.listdir(tmp_path / "photos") == ["cat.jpg"]


def test_a_start_that_failed_can_be_made_again(tiny_plan, tmp_path, monkeypatch):
    plan, real = tiny_plan(["cfg"], [2.0], num_images=2), os.replace
    for failing in ("plan.json", "environment.json"):

        def moved(source, target, failing=failing):
            if Path(target).name == failing:
                raise OSError(28, "No space left on device")
            return real(source, target)

        monkeypatch.setattr(files_module.os, "replace", moved)
        with pytest.raises(UserError, match="No space left on device"):
            compare(plan, tmp_path / failing)
        monkeypatch.setattr(files_module.os, "replace", real)
        (tmp_path / failing / f".{failing}.1.tmp").write_bytes(b"of one that was killed")
        assert compare(plan, tmp_path / failing)["n"] == 2


def test_one_that_failed_before_its_first_batch_can_be_made_otherwise(tiny_plan, tmp_path, monkeypatch):
    """As after `out of memory`: with smaller batches, fewer images, another dtype, without --overwrite."""

    def fail(*_):
        raise UserError("out of memory: try a smaller --batch-size")
        yield

    plan = tiny_plan(["cfg"], [2.0], num_images=4, batch_size=4)
    monkeypatch.setattr(sampler, "sample_units", fail)
    with pytest.raises(UserError, match="out of memory"):
        compare(plan, tmp_path / "run")
    assert (tmp_path / "run" / "plan.json").is_file()
    left = tmp_path / "run" / "cells" / plan.folder(0) / "images" / "00000.png"
    left.write_bytes(b"of a batch that was not finished")
    monkeypatch.undo()
    other = tiny_plan(["apg"], [3.0], num_images=2, batch_size=2)
    assert compare(other, tmp_path / "run")["n"] == 2
    assert [path.name for path in (tmp_path / "run" / "cells").iterdir()] == [other.folder(0)]
    with pytest.raises(UserError, match="holds another comparison"):
        compare(plan, tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "nowhere"},
        {"clip": "nowhere/at-all", "metrics": ("clip_score",)},
        {"model": "emoji-lcm", "guidance": ["native"], "negative_prompt": "worm"},
    ],
)
def test_what_can_be_known_to_be_wrong_costs_no_earlier_run(finished_run, tiny_plan, tmp_path, changes):
    _, whole = finished_run
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    before = {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".diffguide.lock"
    }
    guidance = changes.pop("guidance", ["cfg"])
    plan = replace(tiny_plan(guidance, [2.0], num_images=2), **changes)
    with pytest.raises(UserError):
        compare(plan, folder, overwrite=True)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".diffguide.lock"}
    assert after == before


@pytest.mark.parametrize("failure", ["raise ValueError('no reward')", "return images.mean((1, 2, 3)) / 0"])
def test_a_reward_that_fails_on_its_first_image_costs_no_earlier_run(
    finished_run, tiny_plan, tmp_path, monkeypatch, failure
):
    (tmp_path / "rewarding.py").write_text(f"def score(images, prompts):\n    {failure}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rewarding", raising=False)
    folder = Path(shutil.copytree(finished_run[1], tmp_path / "copy"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    plan = tiny_plan(["cfg"], [2.0], num_images=2, reward="rewarding:score", metrics=("reward",))
    with pytest.raises(UserError, match=r"no reward|not finite"):
        compare(plan, folder, overwrite=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_damaged_files_are_named(finished_run, tmp_path):
    plan, whole = finished_run
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    for content in ("{}", "[]"):
        (folder / "results.json").write_text(content)
        with pytest.raises(UserError, match=r"results\.json' is damaged: run the same"):
            write_report(folder)
    (folder / "environment.json").write_text("[]")
    with pytest.raises(UserError, match=r"environment\.json of this comparison is damaged"):
        compare(plan, folder)
