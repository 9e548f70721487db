import json
import os
import weakref

import pytest
import torch
from PIL import Image, ImageChops

from diffguide.eval.cli import main
from diffguide.guidance import AdaptiveProjectedGuidance
from diffguide.pipelines import guide, load_pipeline, sampling
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.metadata import read_settings
from diffguide.pipelines.output import plan_output, slugify


@pytest.fixture
def here(tmp_path, monkeypatch, embedded):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def generate(*args):
    return main(["generate", *map(str, args), "--steps", "3", "--device", "cpu"])


def same(a, b):
    with Image.open(a) as first, Image.open(b) as second:
        return ImageChops.difference(first.convert("RGB"), second.convert("RGB")).getbbox() is None


def test_one_picture_is_what_the_library_makes(here, capsys):
    rule = ["--guidance", "apg:eta=0.5", "--guidance-scale", 10, "--negative-prompt", "worm"]
    assert generate("red apple", *rule, "--seed", 3, "--scheduler", "euler", "--width", 72, "-o", "apple.png") == 0
    out, err = capsys.readouterr()
    assert out == "apple.png\n"
    assert err.startswith("diffguide: ")
    assert err.endswith(" s, 6 evaluations per picture\n")
    pipe = load_pipeline("emoji-sd", device="cpu", scheduler="euler", progress_bar=False)
    guided = guide(pipe, AdaptiveProjectedGuidance(10.0, eta=0.5))
    seed = torch.Generator().manual_seed(3)
    expected = guided("red apple", negative_prompt="worm", num_inference_steps=3, generator=seed, width=72).images[0]
    with Image.open("apple.png") as image:
        assert image.tobytes() == expected.tobytes()


def test_a_tilde_that_the_shell_left_is_the_home(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "home"))
    (here / "home").mkdir()
    (here / "home" / "prompts.txt").write_text("red apple")
    made = ["--steps", "1", "--output=~/a.png", "--trace=~/a.json"]
    assert main(["generate", "--prompt-file=~/prompts.txt", *made]) == 0
    assert main(["generate", "--from-image=~/a.png", "--output=~/b.png"]) == 0
    assert sorted(path.name for path in (here / "home").iterdir()) == ["a.json", "a.png", "b.png", "prompts.txt"]
    assert not (here / "~").exists()


def test_without_output_the_file_is_named_after_prompt_and_seed(here, capsys):
    assert generate("Red Apple!") == 0
    assert capsys.readouterr().out == "red-apple-0.png\n"
    settings = read_settings(here / "red-apple-0.png")
    assert (settings.rule, settings.guidance_scale, settings.steps, settings.model) == ("cfg", 4.0, 3, "emoji-sd")
    assert (settings.height, settings.width, settings.evaluations, settings.dtype) == (64, 64, 6, "float32")


@pytest.mark.parametrize("model", ["emoji-sd", "emoji-flow"])
@pytest.mark.parametrize(
    "options", [[], ["--guidance", "apg:momentum=-0.75", "--scheduler", "unipc", "--height", "72"]]
)
def test_a_picture_is_made_again_from_itself(here, model, options):
    options = [*options, "--model", model, "--negative-prompt", "blue: dark, cold", "--seed", "7"]
    assert main(["generate", 'red, "apple"', *options, "--steps", "4", "--device", "cpu", "-o", "a.png"]) == 0
    assert main(["generate", "--from-image", "a.png", "--device", "cpu", "-o", "b.png"]) == 0
    assert same("a.png", "b.png")
    assert read_settings(here / "a.png") == read_settings(here / "b.png")


def test_a_negative_prompt_in_a_pipeline_that_takes_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # the real models
    lcm, negative = ["man cook, dark skin tone", "--model", "emoji-lcm"], ["--negative-prompt", "dark skin tone"]
    assert generate(*lcm, *negative, "--guidance", "nag:tau=2", "-o", "a.png") == 0
    settings = read_settings(tmp_path / "a.png")
    assert (settings.rule, settings.guidance_scale, settings.evaluations) == ("nag", 3.0, 3)
    assert settings.negative_prompt == "dark skin tone"
    assert generate("--from-image", "a.png", "-o", "b.png") == 0
    assert same("a.png", "b.png")
    assert generate(*lcm, "-o", "native.png") == 0
    assert generate(*lcm, *negative, "--guidance", "nag", "--guidance-scale", 1, "-o", "off.png") == 0
    assert same("off.png", "native.png")
    assert not same("a.png", "native.png")
    capsys.readouterr()
    assert generate(*lcm, *negative, "-o", "c.png") == 2
    assert "LatentConsistencyModelPipeline takes no negative prompt" in capsys.readouterr().err
    assert generate(*lcm, *negative, "--guidance", "nag+rescale", "-o", "c.png") == 2
    assert "makes nothing of two predictions, which Rescale goes by" in capsys.readouterr().err


def test_what_is_given_overrides_what_the_picture_says(here):
    generate("red apple", "--guidance", "apg:eta=1", "--guidance-scale", "4", "-o", "a.png")
    assert generate("--from-image", "a.png", "green pear", "--guidance", "cfg", "--seeds", "1", "-o", "b.png") == 0
    settings = read_settings(here / "b.png")
    assert (settings.prompt, settings.rule, settings.seed, settings.guidance_scale) == ("green pear", "cfg", 1, 4.0)
    assert settings.options == {"guidance_rescale": 0.0}
    assert not same("a.png", "b.png")


def test_a_picture_does_not_depend_on_what_is_made_with_it(here):
    prompts = here / "prompts.txt"
    prompts.write_text("red apple\n\n  green pear \nred apple\n", encoding="utf-8")
    for size in (1, 3):
        assert generate("--prompt-file", prompts, "--seeds", "0-1,5", "--batch-size", size, "-o", f"batch{size}") == 0
    names = sorted(os.listdir("batch1"))
    assert names == sorted(
        [f"{p}-{s}.png" for p in ("red-apple", "green-pear") for s in (0, 1, 5)] + ["contact-sheet.png"]
    )
    assert generate("green pear", "--seed", 5, "-o", "alone.png") == 0
    assert same("alone.png", "batch1/green-pear-5.png")
    assert not same("alone.png", "batch1/green-pear-0.png")
    assert not same("alone.png", "batch1/red-apple-5.png")
    for name in names[1:]:
        with Image.open(f"batch1/{name}") as one, Image.open(f"batch3/{name}") as three:
            difference = ImageChops.difference(one, three)
        assert max(high for _, high in difference.getextrema()) <= 1  # rounding of a larger matrix product


def test_several_pictures_with_a_png_as_output_have_their_sheet_there(here, capsys):
    assert generate("red apple", "--seeds", "0-9", "--steps", "1", "-o", "x.png", "--guidance", "none") == 0
    paths = capsys.readouterr().out.split()
    assert paths == [*(f"x/red-apple-{seed}.png" for seed in range(10)), "x.png"]
    with Image.open("x.png") as sheet:
        assert sheet.width > 8 * 160


def test_no_picture_is_kept_where_there_is_no_sheet(here, capsys, monkeypatch):
    original, made, alive = sampling.sample, [], []

    def watched(*args):
        for picture in original(*args):
            alive.append(sum(image() is not None for image in made))
            made.append(weakref.ref(picture.image))
            yield picture

    monkeypatch.setattr(sampling, "sample", watched)
    monkeypatch.setattr("diffguide.pipelines.generate.SHEET_LIMIT", 5)
    assert generate("red apple", "--seeds", "0-5", "--steps", "1", "-o", "out") == 0
    assert max(alive) <= 2  # the one before, by names that are still bound
    assert "no contact sheet of more than 5 pictures" in capsys.readouterr().err
    assert not (here / "out" / "contact-sheet.png").exists()


def test_json_is_one_object(here, capsys):
    assert generate("red apple", "--seeds", "0,1", "--json", "-o", "out") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == ""
    assert [(image["path"], image["seed"], image["evaluations"]) for image in report["images"]] == [
        ("out/red-apple-0.png", 0, 6),
        ("out/red-apple-1.png", 1, 6),
    ]
    assert all(image["seconds"] > 0 for image in report["images"])
    assert report["sheet"] == "out/contact-sheet.png"
    assert report["settings"]["rule"] == "cfg"


def test_the_pipelines_own_guidance(here, capsys):
    assert generate("red apple", "--guidance", "native", "--guidance-scale", 5, "-o", "native.png", "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["evaluations"] is None
    assert generate("red apple", "--guidance", "cfg", "--guidance-scale", 5, "-o", "cfg.png") == 0
    assert same("native.png", "cfg.png")
    assert generate("--from-image", "native.png", "-o", "again.png") == 0
    assert same("native.png", "again.png")


def test_a_folder_as_model_has_its_own_defaults(here, tiny_sd):
    assert generate("red apple", "--model", tiny_sd, "-o", "own.png") == 0
    settings = read_settings(here / "own.png")
    assert (settings.rule, settings.guidance_scale, settings.model) == ("native", 7.5, str(tiny_sd))
    assert generate("red apple", "--model", tiny_sd, "--guidance", "apg", "-o", "apg.png") == 0
    assert read_settings(here / "apg.png").guidance_scale == 7.5


def test_scale_one_saves_half_the_evaluations(here):
    assert generate("red apple", "--guidance-scale", "1", "-o", "a.png") == 0
    assert read_settings(here / "a.png").evaluations == 3


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "euler-a", "dpm++-sde", "heun"])
def test_stochastic_schedulers_repeat(here, scheduler):
    for name in ("a.png", "b.png"):
        assert generate("red apple", "--scheduler", scheduler, "-o", name) == 0
    assert same("a.png", "b.png")


def test_nothing_is_overwritten_or_sampled_when_a_file_exists(here, capsys, monkeypatch):
    monkeypatch.setattr("diffguide.pipelines.loading.load_pipeline", lambda *a, **k: pytest.fail("loaded"))
    (here / "out").mkdir()
    (here / "out" / "red-apple-1.png").write_text("mine")
    assert generate("red apple", "--seeds", "0-3", "-o", "out") == 2
    assert "red-apple-1.png' exists already: give --overwrite" in capsys.readouterr().err
    assert os.listdir("out") == ["red-apple-1.png"]


def test_overwrite_replaces(here):
    (here / "a.png").write_text("mine")
    assert generate("red apple", "-o", "a.png", "--overwrite") == 0
    assert read_settings(here / "a.png").prompt == "red apple"


def test_an_interruption_keeps_what_is_finished(here, capsys, monkeypatch):
    original, calls = sampling.call_pipeline, []

    def interrupted(pipe, arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(pipe, arguments)

    monkeypatch.setattr(sampling, "call_pipeline", interrupted)
    assert generate("red apple", "--seeds", "0-4", "-o", "out") == 130
    assert capsys.readouterr().err == "diffguide: interrupted, 2 of 5 pictures are finished\n"
    assert sorted(os.listdir("out")) == ["red-apple-0.png", "red-apple-1.png"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory: try a smaller --height"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (ValueError("`height` has to be\ndivisible by 16"), "`height` has to be divisible by 16"),
    ],
)
def test_failures_inside_the_pipeline_are_one_line(here, capsys, monkeypatch, error, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("diffusers.StableDiffusionPipeline.encode_prompt", fail)
    assert generate("red apple") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"diffguide: error: {message}")
    assert err.count("\n") == 1


def test_a_bug_is_not_hidden(here, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("diffusers.StableDiffusionPipeline.encode_prompt", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        generate("red apple")


def test_slugs():
    assert slugify("Woman cook, medium skin tone!") == "woman-cook-medium-skin-tone"
    assert slugify("苹果 🍎") == "苹果"
    assert slugify("🍎") == "picture"
    assert slugify("../../etc/passwd") == "etc-passwd"
    assert len(slugify("x" * 500)) == 40


def test_prompts_that_share_a_slug_do_not_share_a_file(tmp_path):
    jobs = [(prompt, seed) for prompt in ("a b", "a-b", "a b 2", "A b!") for seed in (0, 1)]
    paths = plan_output(jobs, str(tmp_path), overwrite=False).pictures
    assert len(set(paths)) == len(jobs)


def test_output_is_judged_before_anything_is_made(tmp_path):
    (tmp_path / "x").write_text("a file")
    for output, message in [
        ("x", "is a file"),
        ("x/y.png", "Not a directory|exists|cannot"),
        ("y.jpg", "written as PNG, not .jpg: name the output 'y.png'"),
    ]:
        with pytest.raises(UserError, match=message):
            plan_output([("a", 0)], str(tmp_path / output), overwrite=False).make_folders()


def test_a_trained_model_draws_what_it_is_told(trained, tmp_path):
    """A red apple is red: the reddest emoji there is, at the scale users get."""
    path = tmp_path / "apple.png"
    assert main(["generate", "red apple", "--guidance", "apg", "--guidance-scale", "8", "-o", str(path)]) == 0
    with Image.open(path) as image:
        red, green, blue = (sum(band.tobytes()) for band in image.convert("RGB").split())
    assert red > 1.15 * green
    assert red > 1.15 * blue


def test_a_scheduler_that_the_pipeline_cannot_call_is_one_line(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["red apple", "--model", "emoji-lcm", "--guidance", "native", "--scheduler", "euler"]
    assert generate(*words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "LatentConsistencyModelPipeline with EulerDiscreteScheduler cannot be called so" in error
