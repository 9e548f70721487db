import json
import os
import random
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffguide.eval import compare as compare_module
from diffguide.eval import files as files_module
from diffguide.eval.cli import main
from diffguide.eval.comparison import compare
from diffguide.eval.files import read_arrays
from diffguide.eval.grid import run_plan
from diffguide.eval.measures import make_measures
from diffguide.eval.store import Store
from diffguide.guidance import AdaptiveProjectedGuidance
from diffguide.pipelines import guide, load_pipeline
from diffguide.pipelines.errors import UserError


def test_every_image_is_what_the_rule_draws_from_its_seed_and_prompt(finished_run, tiny_sd):
    plan, folder = finished_run
    pipe = load_pipeline(tiny_sd, device="cpu", progress_bar=False)
    with guide(pipe, AdaptiveProjectedGuidance(8.0)) as guided:
        generators = [torch.Generator().manual_seed(k) for k in range(4, 8)]
        expected = guided(["red apple", "green pear"] * 2, num_inference_steps=2, generator=generators).images
        scales = torch.stack([record.effective_scale for record in guided.trace]).mean(0)
    store = Store(folder, plan)
    for k, image in zip(range(4, 8), expected):
        with Image.open(store.image_path(3, k)) as saved:
            assert saved.tobytes() == image.tobytes()
            assert json.loads(saved.text["diffguide"])["rule"] == "apg"
    arrays = store.read_cell(3)
    assert arrays["effective_scale"][4:8] == pytest.approx(scales.numpy(), rel=1e-6)
    assert (arrays["evaluations"] == 4).all()


def test_results_are_the_means_and_paired_differences_of_what_was_measured(finished_run):
    plan, folder = finished_run
    results = json.loads((folder / "results.json").read_text())
    store = Store(folder, plan)
    cfg, apg = store.read_cell(1), store.read_cell(3)
    cell = results["cells"][3]
    assert (cell["guidance"], cell["guidance_scale"], cell["n"]) == ("apg", 8.0, 10)
    assert cell["metrics"]["clipping"]["value"] == pytest.approx(apg["clipping"].mean())
    entry = next(e for e in results["differences"] if e["cell"] == 3 and e["metric"] == "clipping")
    assert entry["value"] == pytest.approx((apg["clipping"] - cfg["clipping"]).mean())
    assert entry["low"] <= entry["value"] <= entry["high"]
    pixels = np.stack([np.asarray(Image.open(store.image_path(3, k))) for k in range(10)])
    assert cell["metrics"]["clipping"]["value"] == pytest.approx(((pixels == 0) | (pixels == 255)).mean(), rel=1e-6)
    assert results["metrics"] == ["clipping", "saturation", "contrast", "evaluations", "effective_scale"]
    per_image = read_arrays(folder / "per_image.npz")
    assert (per_image["03/clipping"] - per_image["01/clipping"]).mean() == pytest.approx(entry["value"])
    assert len(per_image) == len(results["metrics"]) * len(results["cells"])
    header, *rows = (folder / "results.csv").read_text().splitlines()
    assert header.startswith("guidance,guidance_scale,steps,scheduler,n,clipping,clipping_low")
    assert len(rows) == 4
    assert results["environment"]["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_an_image_does_not_depend_on_batches_or_on_what_ag_saves_in_them(tiny_plan, tiny_sd, tmp_path):
    pipe = load_pipeline(tiny_sd, device="cpu", progress_bar=False)
    with guide(pipe, AdaptiveProjectedGuidance(8.0)) as guided:
        guided("red apple", num_inference_steps=6, generator=torch.Generator().manual_seed(0))
        cosines = [record.cosine.item() for record in guided.trace]
    threshold = f"ag:threshold={sorted(cosines)[2]:.6f}"  # so that images cross it at different steps
    cells = {}
    for size in (1, 5):
        plan = tiny_plan(["cfg", threshold], [4.0], [6], batch_size=size)
        store = run_plan(plan, tmp_path / str(size), pipe, make_measures(plan.metrics))
        cells[size] = [store.read_cell(i) for i in range(2)]
    for one, five in zip(cells[1], cells[5]):
        assert (one["evaluations"] == five["evaluations"]).all()
        assert one["effective_scale"] == pytest.approx(five["effective_scale"], rel=1e-4)
        assert one["saturation"] == pytest.approx(five["saturation"], abs=2e-3)
        np.testing.assert_allclose(one["trace_cosine"], five["trace_cosine"], atol=1e-4)
    assert (cells[1][1]["evaluations"] < 12).any()


def test_killed_runs_go_on_to_the_same_bytes(finished_run, killed, digest, tmp_path):
    plan, whole = finished_run
    folder = tmp_path / "killed"

    def after(batches):
        def wait(child):
            while len(list(folder.glob("cells/*/batches/*.npz"))) < batches:
                time.sleep(0.002)

        return wait

    assert killed(lambda: compare(plan, folder), after(2))
    unfinished = digest(folder)
    assert "results.json" not in unfinished
    assert killed(lambda: compare(plan, folder), after(6))
    compare(plan, folder)
    assert digest(folder) == digest(whole)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_no_trace(tiny_plan, killed, digest, tmp_path):
    plan, whole = tiny_plan(num_images=48), tmp_path / "whole"
    compare(plan, whole)
    began = time.perf_counter()
    compare(plan, tmp_path / "again")  # timed as a child runs: with everything imported
    seconds = time.perf_counter() - began
    expected, moments, kills, folders = digest(whole), random.Random(0), 0, 1
    assert digest(tmp_path / "again") == expected
    while kills < 20:
        folder, moment = tmp_path / f"killed-{folders}", moments.uniform(0, seconds / 4)
        if killed(lambda folder=folder: compare(plan, folder), lambda child, moment=moment: time.sleep(moment)):
            kills += 1
        else:  # it came before the kill
            assert digest(folder) == expected
            folders += 1
    compare(plan, folder)
    assert digest(folder) == expected


def test_spoiled_and_missing_files_are_made_again(finished_run, digest, tmp_path):
    plan, whole = finished_run
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    store = Store(folder, plan)
    torn = store.batch_path(0, 1)
    torn.write_bytes(torn.read_bytes()[:-40])
    store.image_path(2, 9).unlink()
    store.image_path(1, 0).write_bytes(b"")
    (folder / "cells" / "leftover").mkdir()
    (folder / "cells" / "leftover" / ".00000.npz.1.tmp").write_bytes(b"half")
    with pytest.raises(UserError, match=r"cfg at scale 2, 2 steps has 2 of 3 batches"):
        store.read_cell(0)
    compare(plan, folder)
    assert digest(folder) == digest(whole)


def test_another_plan_other_versions_and_other_contents_are_refused(finished_run, tiny_plan, tmp_path):
    plan, whole = finished_run
    with pytest.raises(UserError, match=r"another comparison \(num images: 10 there, 9 here\)"):
        compare(tiny_plan(num_images=9), whole)
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    environment = json.loads((folder / "environment.json").read_text())
    environment["versions"]["diffusers"] = "0.1"
    (folder / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(UserError, match=r"begun with diffusers 0\.1, and here is"):
        compare(plan, folder)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="holds something else"):
        compare(plan, tmp_path / "photos")


def test_without_images_only_those_of_the_report_are_kept(finished_run, tiny_plan, tmp_path):
    _, whole = finished_run
    plan = tiny_plan(keep="none")
    compare(plan, tmp_path / "none")
    assert len(list((tmp_path / "none").rglob("*.png"))) == 4 * 6
    for name in ("results.csv", "report.html"):
        there, here = ((folder / name).read_bytes() for folder in (whole, tmp_path / "none"))
        assert there.replace(b"--keep png", b"--keep none") == here
    assert (tmp_path / "none" / "report.html").stat().st_size < 1_000_000


def test_webp_keeps_the_same_pixels(finished_run, tiny_plan, tmp_path):
    plan, whole = finished_run
    webp = tiny_plan(keep="webp")
    compare(webp, tmp_path / "webp")
    files = Store(whole, plan).image_path(3, 5), Store(tmp_path / "webp", webp).image_path(3, 5)
    with Image.open(files[0]) as png, Image.open(files[1]) as same:
        assert same.convert("RGB").tobytes() == png.tobytes()


def test_a_file_with_any_bit_flipped_is_one_that_is_not_there(tmp_path):
    path = tmp_path / "batch.npz"
    np.savez(path, a=np.arange(3.0), b=np.ones((2, 3)))
    whole = path.read_bytes()
    for place, mask in product(range(len(whole)), (1, 8)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
        found = read_arrays(path)  # which raises nothing
        assert found is None or isinstance(found, dict)
    path.write_bytes(whole)
    found = read_arrays(path)
    assert found.keys() == {"a", "b"}
    assert np.array_equal(found["a"], np.arange(3.0))
    assert found["b"].shape == (2, 3)


def test_a_full_disk_is_one_line_and_loses_nothing(finished_run, digest, tmp_path, monkeypatch):
    plan, whole = finished_run
    real, written = os.replace, []

    def replace(source, target):
        written.append(target)
        if len(written) == 30:
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(files_module.os, "replace", replace)
    with pytest.raises(UserError, match="No space left on device: what is finished is kept") as failure:
        compare(plan, tmp_path / "full")
    assert "\n" not in str(failure.value)
    assert not list((tmp_path / "full").rglob("*.tmp"))
    finished = len(list((tmp_path / "full").rglob("*.npz")))
    assert finished > 0
    compare(plan, tmp_path / "full")
    assert digest(tmp_path / "full") == digest(whole)


def command(plan, folder, prompts):
    prompts.write_text("\n".join(plan.prompts))
    words = plan.command().split()[2:]
    return ["--prompt-file", str(prompts), *words, "--output", str(folder)]


def test_the_command_runs_the_plan_and_prints_its_results(finished_run, tiny_plan, tmp_path, capsys):
    folder = tmp_path / "run"
    words = command(tiny_plan(num_images=3, scales=(2.0,)), folder, tmp_path / "prompts.txt")
    assert main(["compare", *words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((folder / "results.json").read_text())
    assert "2 cells of 3 images, 6 of 6 to make; at most" in err
    assert main(["compare", *words]) == 0
    out, err = capsys.readouterr()
    assert "3 images are too few for an interval" in out
    assert "0 of 6 to make" in err
    assert main(["compare", *words, "--seed-start", "5"]) == 2
    assert "seed start: 0 there, 5 here" in capsys.readouterr().err
    assert main(["compare", *words, "--seed-start", "5", "--overwrite"]) == 0
    assert json.loads((folder / "results.json").read_text())["seeds"] == [5, 7]
    assert compare_module.__doc__


def launch(words, where, rank):
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "ACCELERATE_USE_CPU": "true"}
    where.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "diffguide.eval.compare", *words],
        cwd=where,
        env={**os.environ, **environment, **address},
    )


@pytest.mark.slow
def test_two_processes_on_separate_disks_give_what_one_gives(tiny_plan, digest, tmp_path):
    plan = tiny_plan(num_images=20)
    words = command(plan, "run", tmp_path / "prompts.txt")
    torch.set_num_threads(1)
    assert main(["compare", *words[:-1], str(tmp_path / "one")]) == 0
    for _ in range(2):  # and once more, with nothing left to make
        children = [launch(words, tmp_path / f"disk{rank}", rank) for rank in range(2)]
        assert [child.wait(timeout=170) for child in children] == [0, 0]
    assert digest(tmp_path / "disk0" / "run") == digest(tmp_path / "one")
    assert 0 < len(list((tmp_path / "disk1").rglob("*.npz"))) < 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        (["torch.distributed.run", "--nproc_per_node", "2"], 2),
        (["accelerate.commands.launch", "--cpu", "--num_processes", "2"], 1),  # accelerate starts several on GPUs only
    ],
)
def test_launched_processes_give_what_one_gives(tiny_plan, digest, tmp_path, launcher, processes):
    plan = tiny_plan(num_images=20)
    words = command(plan, tmp_path / "two", tmp_path / "prompts.txt")
    torch.set_num_threads(1)
    assert main(["compare", *words[:-1], str(tmp_path / "one")]) == 0
    environment, module = {**os.environ, "OMP_NUM_THREADS": "1"}, ["-m", "diffguide.eval.compare"]
    launch = [sys.executable, "-m", *launcher, *module, *words]
    subprocess.run(launch, check=True, timeout=170, env=environment)
    assert digest(tmp_path / "two") == digest(tmp_path / "one")
    assert len(list((tmp_path / "two" / "seconds").iterdir())) == processes
    arrays = [read_arrays(path) for path in (tmp_path / "two").rglob("*.npz")]
    assert all(arrays)
