import json
import shutil
from dataclasses import replace

import pytest

from diffguide.eval.comparison import compare
from diffguide.eval.growth import continuing, obstacle, plan_of
from diffguide.eval.plan import grid
from diffguide.eval.report import write_report
from diffguide.pipelines.errors import UserError


def test_a_grown_comparison_is_the_one_made_at_once(finished_run, tiny_plan, digest, tmp_path, capsys):
    whole, folder = finished_run
    compare(tiny_plan(guidances=("cfg",), num_images=6), tmp_path / "grown")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "grown").rglob("batches/00000.npz")}
    assert len(before) == 2
    capsys.readouterr()
    compare(whole, tmp_path / "grown")
    assert "32 of 40 to make" in capsys.readouterr().err  # images 4 and 5 were in a batch that is larger now
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert digest(tmp_path / "grown") == digest(folder)


def test_added_scales_come_after_the_cells_that_are_there(tiny_plan, tmp_path):
    compare(tiny_plan(scales=(8.0,), num_images=4), tmp_path)
    results = compare(tiny_plan(scales=(2.0, 8.0), num_images=4), tmp_path)
    places = [(cell["guidance"], cell["guidance_scale"]) for cell in results["cells"]]
    assert places == [("cfg", 8.0), ("apg", 8.0), ("cfg", 2.0), ("apg", 2.0)]
    assert compare(tiny_plan(scales=(2.0, 8.0), num_images=4), tmp_path) == results
    assert [(cell.guidance, cell.guidance_scale) for cell in plan_of(tmp_path).cells] == places


def test_a_report_waits_until_what_was_added_is_there(finished_run, tmp_path):
    plan, folder = finished_run
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "plan.json").write_text(json.dumps(replace(plan, num_images=11).to_dict()))
    with pytest.raises(UserError, match="run the same `diffguide compare` again"):
        write_report(tmp_path / "run")


def test_what_would_lose_images_or_change_them_is_refused(finished_run, tiny_plan):
    there, folder = finished_run
    for plan, message in [
        (tiny_plan(num_images=9), "num images: 10 there, 9 here"),
        (tiny_plan(num_images=20, batch_size=8), "batch size: 4 there, 8 here"),
        (
            tiny_plan(num_images=20, prompts=("red apple", "green pear", "fig")),
            "prompts: only 2 of them there, fig here",
        ),
        (
            tiny_plan(guidances=("cfg",)),
            "cells: apg at scale 2, 2 steps, apg at scale 8, 2 steps there, only 2 of them here",
        ),
        (tiny_plan(guidances=("apg", "cfg")), "cells: 4 in another order there"),
        (tiny_plan(num_images=20, seed_start=5), "seed start: 0 there, 5 here"),
    ]:
        assert message in obstacle(plan, there)
        with pytest.raises(UserError, match="holds another comparison"):
            compare(plan, folder)
    assert obstacle(tiny_plan(num_images=20, guidances=("cfg", "apg", "raag")), there) is None


def test_the_files_of_further_rules_are_new_to_the_plan(tiny_plan):
    there = replace(tiny_plan(), files={"model": "a"})
    more = replace(tiny_plan(guidances=("cfg", "apg", "ag")), files={"model": "a", "ag-20.json": "b"})
    assert more.changed_file(there) is None
    assert replace(more, files={"model": "c", "ag-20.json": "b"}).changed_file(there) == "model"
    assert replace(more, cells=there.cells).changed_file(there) == "ag-20.json"


def test_another_baseline_is_not_moved_to_the_front(tiny_plan):
    there, plan = tiny_plan(), tiny_plan(guidances=("apg", "cfg"))
    assert continuing(plan, there) is plan
    assert continuing(plan, None) is plan
    wider = replace(plan, cells=grid(("cfg", "raag", "apg"), (2.0, 4.0, 8.0), (2,)))
    assert continuing(wider, there).cells[:4] == there.cells
    assert set(continuing(wider, there).cells) == set(wider.cells)


def test_a_prompt_that_is_cut_off_is_said_once(tiny_plan, tmp_path, diffusers_log):
    compare(tiny_plan(prompts=(" ".join(["pear"] * 100),)), tmp_path)
    assert len([message for message in diffusers_log.messages if "truncated" in message]) == 1
