"""`diffguide evaluate` where images go with prompts or other images by their place, and references with two faces."""

import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from diffguide.eval import Networks, evaluate_images, image_statistics, load_extractor, open_images, save_statistics
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.metadata import Settings, save_png
from diffguide.pipelines.output import slugify


def packed(folder, path, names):
    with tarfile.open(path, "w") as file:
        for name in names:
            file.add(folder / name, name)
    return path


def test_a_tar_file_in_an_order_of_its_own_is_paired_with_nothing(pictures, tiny_clip, tmp_path):
    folder = pictures("a", 3)
    names, networks = ["00.png", "01.png", "02.png"], Networks(clip=str(tiny_clip), device="cpu")
    ordered = packed(folder, tmp_path / "ordered.tar", names)
    turned = packed(folder, tmp_path / "turned.tar", names[::-1])
    prompts, asked = ["red apple", "green pear", "blue car"], ["clip_score"]
    values = [evaluate_images(s, None, asked, prompts=prompts, networks=networks)[asked[0]] for s in (folder, ordered)]
    assert values[0] == values[1]
    with pytest.raises(
        UserError, match="not in the order of their names, so that they cannot be paired with the prompts"
    ):
        evaluate_images(turned, None, asked, prompts=prompts, networks=networks)
    for images, baseline in ((turned, folder), (folder, turned)):
        with pytest.raises(UserError, match="not in the order of their names"):
            evaluate_images(images, None, ["ssim"], baseline=baseline)
    assert evaluate_images(turned, metrics=["contrast"]).n == 3


def test_names_that_count_to_ten_without_zeros_are_paired_with_nothing(pictures, tmp_path):
    """By name 10.png comes before 2.png, which is not how prompts are numbered."""
    padded, plain = pictures("a", 11), tmp_path / "plain"
    plain.mkdir()
    for path in padded.iterdir():
        (plain / f"red-{int(path.stem)}.png").write_bytes(path.read_bytes())
    prompts, asked = [f"prompt {index}" for index in range(11)], ["reward"]
    message = "by name 'red-10.png' comes before 'red-2.png', by number after it"
    with pytest.raises(UserError, match=f"cannot be paired with the prompts: {message}"):
        evaluate_images(plain, None, asked, prompts=prompts, reward=lambda images, _: images.mean((1, 2, 3)))
    for images, baseline in ((plain, padded), (padded, plain)):
        with pytest.raises(UserError, match=message):
            evaluate_images(images, None, ["ssim"], baseline=baseline)
    assert evaluate_images(plain, None, ["contrast"]).n == 11
    (plain / "red-10.png").rename(plain / "red-3f10.png")  # no number, a part of something else
    assert evaluate_images(plain, None, ["ssim"], baseline=padded).n == 11


@pytest.mark.parametrize("side", ["images", "baseline"])
def test_bad_images_are_not_left_out_of_pairs(pictures, side):
    folders = {"images": pictures("a", 4), "baseline": pictures("b", 4)}
    (folders[side] / "01.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="1 not an image, which cannot be left out"):
        evaluate_images(folders["images"], None, ["ssim"], baseline=folders["baseline"], skip_bad=True)


def test_as_many_prompts_as_not_images_are_told_before_any_work(pictures):
    def never(*args):
        raise AssertionError

    with pytest.raises(UserError, match="2 prompts for 3 images"):
        evaluate_images(pictures("a", 3), None, ["reward"], prompts=["red apple"] * 2, reward=never)


def test_a_reward_that_is_not_finite_is_no_mean(pictures):
    with pytest.raises(UserError, match="reward is not finite for an image from"):
        evaluate_images(pictures("a", 3), None, ["reward"], reward=lambda images, _: images.mean((1, 2, 3)) / 0)


def test_statistics_beside_images_are_those_of_fid_whatever_else_is_asked_for(pictures, tiny_dino, tmp_path):
    """As in ADM's reference batches, which hold statistics of all images and some of the images."""
    images, reference = pictures("a", 12), pictures("b", 20, 1)
    networks = Networks(extractor=f"dinov2:{tiny_dino}", dinov2=str(tiny_dino), device="cpu")
    whole = image_statistics(reference, "dinov2", networks=networks)
    some = torch.cat([group for batch in open_images(reference).batches(8) for group in batch.groups()])[:8]
    arrays = {"arr_0": some.permute(0, 2, 3, 1).numpy(), "mu": whole.mu.numpy(), "sigma": whole.sigma.numpy()}
    np.savez(tmp_path / "adm.npz", **arrays)
    alone = evaluate_images(images, tmp_path / "adm.npz", ["fd_dinov2"], networks=networks)
    both = evaluate_images(images, tmp_path / "adm.npz", ["fd_dinov2", "precision"], networks=networks)
    assert both["fd_dinov2"] == alone["fd_dinov2"]
    assert {score.metric: score.reference_n for score in both.scores}["precision"] == 8
    np.savez(tmp_path / "adm.npz", **(arrays | {"mu": np.zeros(7), "sigma": np.eye(7)}))  # of another network
    by_images = evaluate_images(images, tmp_path / "adm.npz", ["fd_dinov2"], networks=networks)
    assert by_images.scores[0].reference_n == 8


def test_the_model_of_a_network_that_is_named_by_its_kind(pictures, tiny_clip, tmp_path):
    folder, networks = pictures("a", 4), Networks(extractor="clip", clip=str(tiny_clip), device="cpu")
    own = load_extractor("clip", str(tiny_clip), device="cpu").weights_hash
    statistics = image_statistics(folder, "clip", networks=networks)
    assert statistics.weights_hash == own
    save_statistics(tmp_path / "s.npz", statistics)
    found = evaluate_images(folder, pictures("b", 4), ["precision"], networks=networks)
    assert found.scores[0].weights_hash == own


def test_a_resize_that_no_metric_would_use_is_refused(pictures, tiny_clip):
    networks = Networks(extractor=f"clip:{tiny_clip}", resize="clean", device="cpu")
    with pytest.raises(UserError, match="none of the metrics is by inception, whose resize 'clean' was chosen"):
        evaluate_images(pictures("a", 4), pictures("b", 4), ["precision"], networks=networks)


def test_clip_score_is_of_the_middle_square(tiny_clip, tmp_path):
    picture = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 30).convert("RGB")
    wide = Image.new("RGB", (128, 64), "red")
    wide.paste(picture, (32, 0))
    scores = []
    for name, image in (("square", picture), ("wide", wide)):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "0.png")
        networks = Networks(clip=str(tiny_clip), reward=str(tiny_clip), device="cpu")
        asked = ["clip_score", "reward"]
        scores.append(evaluate_images(tmp_path / name, None, asked, prompts=["red apple"], networks=networks))
    assert scores[0]["clip_score"] == scores[1]["clip_score"]
    for found in scores:
        assert found["clip_score"] == pytest.approx(max(100 * found["reward"], 0), abs=1e-3)


def generated(folder, prompts):
    """Pictures as `diffguide generate` leaves them, with their contact sheet."""
    folder.mkdir()
    for k, prompt in enumerate(prompts):
        picture = Image.new("RGB", (8, 8), (40 * k, 0, 0))
        settings = Settings(prompt, "emoji-sd", 0, 8, 8, rule="cfg", guidance_scale=4.0, steps=2)
        save_png(picture, folder / f"{slugify(prompt)}-0.png", settings)
    for name in ("contact-sheet.png", "a.png"):  # as it is named in a folder, and as `--output a.png` names it
        save_png(Image.new("RGB", (30, 20)), folder / name, sheet=True)
    return folder


def test_generated_pictures_count_with_the_prompts_that_they_were_made_of(tmp_path):
    """Whose files are ordered by other names than the prompts were; their contact sheet is none of them."""
    prompts, seen = ["red apple", "blue heart", "tiger \u2603"], []

    def noted(images, prompts):
        seen.extend(prompts)
        return images.mean((1, 2, 3))

    folder = generated(tmp_path / "made", prompts)
    names = sorted(path.name for path in folder.iterdir())
    archives = [packed(folder, tmp_path / "made.tar", names), tmp_path / "made.zip"]
    with zipfile.ZipFile(archives[1], "w") as file:
        for name in names:
            file.write(folder / name, name)
    for source in (*archives, folder):
        seen.clear()
        found = evaluate_images(source, metrics=["reward"], reward=noted)
        assert (found.n, seen) == (3, sorted(prompts))
    with pytest.raises(UserError, match=r"'red apple' is given for 'blue-heart-0.png', which was made of 'blue heart'"):
        evaluate_images(folder, metrics=["reward"], reward=noted, prompts=prompts)
    seen.clear()
    evaluate_images(folder, metrics=["reward"], reward=noted, prompts=sorted(prompts))
    assert seen == sorted(prompts)
