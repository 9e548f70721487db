"""What the docstrings of the functions for Python show."""

import json

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
