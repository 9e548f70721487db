"""What is wrong with the images or the reference: which of them it is, and before any time is spent on the other."""

import pytest
from PIL import Image

from diffguide.eval import Networks, evaluate_images
from diffguide.eval.cli import main
from diffguide.eval.comparison import compare
from diffguide.eval.images import Images
from diffguide.pipelines.errors import UserError


@pytest.fixture
def read(monkeypatch):
    """The labels of the sources whose images were asked for."""
    labels, batches = [], Images.batches
    monkeypatch.setattr(Images, "batches", lambda self, *args: labels.append(self.label) or batches(self, *args))
    return labels


@pytest.mark.parametrize("metric", ["kid", "precision", "fd_dinov2"])
def test_too_few_are_told_before_any_is_read_and_after_bad_ones_are_left_out(
    pictures, tiny_clip, tiny_dino, read, metric
):
    count = 3 if metric == "precision" else 1
    few, enough = pictures("few", count), pictures("enough", 6)
    networks = Networks(extractor=f"clip:{tiny_clip}", dinov2=str(tiny_dino), device="cpu")
    for images, reference, side in ((few, enough, "which is measured"), (enough, few, "the reference")):
        with pytest.raises(UserError, match=f"few', {side}, has {count}$"):
            evaluate_images(images, reference, [metric], networks=networks)
    assert read == []
    (few / "99.png").write_bytes(b"no image")
    for images, reference, side in ((few, enough, "which is measured"), (enough, few, "the reference")):
        with pytest.raises(UserError, match=rf"few', {side}, has {count} \(left out: 1 not an image\)$"):
            evaluate_images(images, reference, [metric], networks=networks, skip_bad=True)
    assert repr(str(enough)) not in read[-1:]


def test_a_reference_that_is_no_good_costs_no_time_for_the_images(pictures, tiny_clip, read):
    images, reference = pictures("a", 6), pictures("b", 6)
    (reference / "03.png").write_bytes(b"no image")
    networks = Networks(extractor=f"clip:{tiny_clip}", device="cpu")
    with pytest.raises(UserError, match="b': 1 not an image"):
        evaluate_images(images, reference, ["kid"], networks=networks)
    assert repr(str(images)) not in read
    (reference / "03.png").unlink()
    read.clear()
    with pytest.raises(UserError, match=r"2 prompts for 6 images"):  # nor the reverse, for what is known of them
        evaluate_images(images, reference, ["kid", "clip_score"], prompts=["a", "b"], networks=networks)
    assert read == []


def test_a_comparison_with_too_small_a_reference_samples_nothing(tiny_plan, pictures, tiny_clip, tmp_path):
    metrics, reference = ("precision", "clipping"), str(pictures("few", 3))
    plan = tiny_plan(["cfg"], [2.0], reference=reference, metrics=metrics, extractor=f"clip:{tiny_clip}")
    with pytest.raises(UserError, match=r"precision needs 4 images at least: .*few', the reference, has 3"):
        compare(plan, tmp_path / "run")
    assert not (tmp_path / "run" / "cells").exists()


def test_one_image_is_not_called_images(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert main(["evaluate", str(tmp_path), "--metrics", "clipping"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(": 1 image")
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    words = ["evaluate", str(tmp_path), "--metrics", "clipping", "--prompts", str(tmp_path / "prompts.txt")]
    assert main(words) == 2
    assert "2 prompts for 1 image of" in capsys.readouterr().err
