"""`--reference emoji`, and the cache of what networks see in it."""

import json

import pytest
import torch

from diffguide.eval import evaluate_images, load_extractor, load_reference, references
from diffguide.eval.cli import main
from diffguide.eval.networks import Networks


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, request):
    """The folder of the cache. All but the slow tests see the first 300 images of the set only."""
    if "slow" not in request.keywords:
        about = references._description("emoji")
        monkeypatch.setattr(references, "_description", lambda name: {**about, "captions": about["captions"][:300]})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "diffguide"


def test_the_embedded_reference_is_measured_once_and_a_damaged_cache_again(pictures, tiny_clip, cache, capsys):
    folder = pictures("a", 6, side=64)
    words = ["evaluate", folder, "--reference", "emoji", "--metrics", "cmmd", "--clip", tiny_clip, "--json"]
    found = []
    for spoil in (False, False, True):
        if spoil:
            (file,) = cache.iterdir()
            file.write_bytes(file.read_bytes()[:1000])
        assert main([*map(str, words), "--device", "cpu"]) == 0
        out, err = capsys.readouterr()
        found.append(json.loads(out)["scores"][0])
        assert ("is measured once" in err) == (len(found) != 2)
    assert found[0] == found[1] == found[2]
    assert found[0]["reference_n"] == 300


def test_the_cache_belongs_to_the_weights_and_the_precision(pictures, tiny_clip, cache, copy_of):
    from safetensors.torch import load_file, save_file

    folder, other = pictures("a", 4, side=64), copy_of(tiny_clip)
    state = load_file(other / "model.safetensors")
    state["visual_projection.weight"] = state["visual_projection.weight"].flip(0) * 2
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    for clip in (tiny_clip, other):
        evaluate_images(folder, "emoji", ["cmmd"], networks=Networks(clip=str(clip), device="cpu"))
    assert len(list(cache.iterdir())) == 2
    first = evaluate_images(folder, "emoji", ["cmmd"], networks=Networks(clip=str(tiny_clip), device="cpu"))
    half = Networks(clip=str(tiny_clip), device="cpu", dtype="bfloat16")
    evaluate_images(folder, "emoji", ["cmmd"], networks=half)
    assert len(list(cache.iterdir())) == 3
    again = evaluate_images(folder, "emoji", ["cmmd"], networks=Networks(clip=str(tiny_clip), device="cpu"))
    assert again["cmmd"] == first["cmmd"]


def test_without_a_place_for_the_cache_the_number_is_the_same(pictures, tiny_clip, cache, capsys):
    folder, networks = pictures("a", 4, side=64), Networks(clip=str(tiny_clip), device="cpu")
    first = evaluate_images(folder, "emoji", ["cmmd"], networks=networks)["cmmd"]
    for file in cache.iterdir():
        file.unlink()
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    assert evaluate_images(folder, "emoji", ["cmmd"], networks=networks)["cmmd"] == first
    assert "cannot keep the reference's features" in capsys.readouterr().err


@pytest.mark.slow
def test_the_fid_of_the_reference_to_itself_is_nothing_and_of_its_part_little(inception):
    tiles = torch.cat([batch.images for batch in load_reference("emoji").batches(512)])[::40]
    found = evaluate_images(list(tiles), list(tiles), ["fid", "precision", "recall"])
    assert found["fid"] == pytest.approx(0, abs=1e-3)
    assert (found["precision"], found["recall"]) == (1, 1)
    assert load_extractor("inception", device="cpu").dim == 2048
