"""What the docstrings of the functions for Python show."""

import json
import re

import numpy as np
import pytest

import diffguide.eval
from diffguide.eval import (
    Networks,
    compare_rules,
    evaluate_images,
    image_statistics,
    load_statistics,
    save_statistics,
    write_report,
)
from diffguide.eval.comparison import make_plan
from diffguide.guidance import ClassifierFreeGuidance
from diffguide.pipelines.errors import UserError


def test_every_public_name_is_there():
    for name in diffguide.eval.__all__:
        assert getattr(diffguide.eval, name).__doc__
    with pytest.raises(AttributeError):
        _ = diffguide.eval.nothing


def test_statistics_made_once_serve_for_many_evaluations(pictures, tiny_dino, tmp_path):
    photos, drawn = pictures("photos", 24), pictures("drawn", 20, 1)
    networks = Networks(dinov2=str(tiny_dino), device="cpu")
    statistics = image_statistics(photos, f"dinov2:{tiny_dino}", networks=networks)
    save_statistics(tmp_path / "photos.npz", statistics)
    found = [
        evaluate_images(drawn, reference, ["fd_dinov2"], networks=networks)["fd_dinov2"]
        for reference in (photos, statistics, tmp_path / "photos.npz", load_statistics(tmp_path / "photos.npz"))
    ]
    assert found == pytest.approx([found[0]] * 4, rel=1e-9)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompts": "red apple"}, "prompts is a list, not 'red apple'"),
        ({"guidance_scale": 4}, "guidance_scale is a list, not 4"),
        ({"steps": [0]}, "a number of steps"),
        ({"steps": ["x"]}, "a number of steps"),
        ({"steps": [None]}, "a number of steps"),
        ({"scheduler": [None, "foo"]}, "'foo'"),
        ({"num_images": 2.5}, "'2.5'"),
        ({"height": 63}, "a multiple of 8"),
        ({"guidance": [ClassifierFreeGuidance()]}, "guidance is a list of names or numbers, not of Classifier"),
        ({"guidance": "cfg"}, "guidance is a list, not 'cfg'"),
        ({"metrics": "fid"}, "metrics is a list, not 'fid'"),
        ({"reward": len, "metrics": ["reward"]}, "the reward of a comparison is a name"),
    ],
)
def test_mistakes_in_what_is_to_be_compared_are_named(tiny_sd, tmp_path, asked, message):
    given = {"guidance": ["cfg"], "model": str(tiny_sd), "num_images": 2, "prompts": ["a"], "metrics": ["contrast"]}
    with pytest.raises(UserError, match=re.escape(message)):
        compare_rules(output=tmp_path / "run", **(given | asked))
    assert not (tmp_path / "run").exists()


def test_overwrite_loses_nothing_to_a_scheduler_that_does_not_fit(tiny_sd, tmp_path):
    asked = {"model": str(tiny_sd), "num_images": 2, "prompts": ["a"], "metrics": ["contrast"], "device": "cpu"}
    compare_rules(["cfg"], tmp_path / "run", steps=[1], **asked)
    before = (tmp_path / "run" / "results.json").read_bytes()
    with pytest.raises(UserError, match="flow"):
        compare_rules(["cfg"], tmp_path / "run", overwrite=True, scheduler=[None, "flow-euler"], steps=[1], **asked)
    assert (tmp_path / "run" / "results.json").read_bytes() == before


def test_numbers_of_other_libraries_and_paths_are_taken(tiny_sd, tmp_path):
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    asked = {"model": str(tiny_sd), "num_images": np.int64(2), "metrics": ["contrast"]}
    scales, steps = np.array([2.0, 4.0]), np.array([3])
    plan = make_plan(["cfg"], scales, steps, prompt_file=tmp_path / "prompts.txt", **asked)
    assert [(cell.guidance_scale, cell.steps) for cell in plan.cells] == [(2.0, 3), (4.0, 3)]
    assert (plan.prompts, plan.prompt_file) == (("a", "b"), str(tmp_path / "prompts.txt"))


def test_compare_rules_gives_what_is_in_its_folder_and_goes_on_with_it(tiny_sd, tmp_path, capsys):
    asked = {
        "model": str(tiny_sd),
        "guidance_scale": [2, 8],
        "steps": [2],
        "num_images": 8,
        "prompts": ["red apple"],
        "metrics": ["clipping", "ssim"],
        "device": "cpu",
    }
    results = compare_rules(["cfg", "apg"], tmp_path / "run", **asked)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["conclusions"] == results["conclusions"]
    capsys.readouterr()
    assert compare_rules(["cfg", "apg"], tmp_path / "run", **asked) == results
    assert "0 of 32 to make" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds another comparison"):
        compare_rules(["cfg", "apg"], tmp_path / "run", **{**asked, "steps": [3]})
    assert write_report(tmp_path / "run") == tmp_path / "run" / "report.html"
