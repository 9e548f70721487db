"""Calibration on a tiny random model: what is fitted is what the records say, and an interruption loses nothing."""

import json
import os

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionImg2ImgPipeline
from families_unet_video import animatediff
from tiny_family import seeded

from diffguide.eval.cli import main
from diffguide.guidance import AdaptiveGuidance, ClassifierFreeGuidance, Coefficients, Guidance, Rescale
from diffguide.pipelines import calibration, guide, load_pipeline
from diffguide.pipelines.calibration import Recorder, Setting, evaluations, record, threshold_for_saving
from diffguide.pipelines.calibration_state import recorded_with_resume
from diffguide.pipelines.errors import UserError

PROMPTS = ["red apple", "dog", "grinning face", "blue car", "tree", "woman cook"]
STEPS = 4


@pytest.fixture
def pipe(tiny_sd):
    return load_pipeline(tiny_sd, progress_bar=False)


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def test_recording_is_plain_guidance_and_its_cosines(pipe):
    recorder, run = Recorder(5.0), {"num_inference_steps": STEPS, "output_type": "latent"}
    results = []
    for rule in (recorder, ClassifierFreeGuidance(5.0)):
        with guide(pipe, rule) as guided:
            results.append(guided("dog", generator=torch.Generator().manual_seed(0), **run).images)
    assert torch.equal(*results)
    assert len(recorder.cond) == STEPS
    for c, u, cosine in zip(recorder.cond, recorder.uncond, recorder.cosines["noise"], strict=True):
        assert torch.allclose(cosine, torch.cosine_similarity(c.flatten(1), u.flatten(1)), atol=1e-5)


def test_evaluations_foreseen_are_those_made(pipe):
    setting = Setting(pipe, 5.0, STEPS, PROMPTS, batch_size=3)
    recorded = record(setting, range(3, 6), record(setting, range(3)))
    assert recorded.count == 6
    cosines = recorded.cosines["denoised"]
    for threshold in cosines.flatten().quantile(torch.tensor([0.2, 0.5, 0.8])).tolist():
        rule = AdaptiveGuidance(5.0, threshold, "denoised")
        foreseen = evaluations(cosines[:3], threshold).float().mean()
        _, made = setting.images(rule, range(3))
        # the first crossing is foreseen exactly: until then sampling is plain guidance
        assert made == pytest.approx(float(foreseen))


def test_threshold_is_the_largest_that_saves_enough():
    cosines = torch.tensor([[0.1, 0.5, 0.7, 0.9], [0.2, 0.4, 0.6, 0.8]])
    assert evaluations(cosines, 0.5).tolist() == [6, 7]
    assert evaluations(cosines, 2.0).tolist() == [8, 8]
    assert evaluations(cosines, 0.9).tolist() == [8, 8]
    assert threshold_for_saving(cosines, 0.25) == pytest.approx(0.4)
    assert threshold_for_saving(cosines, 0.1) == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"at most 0\.375"):
        threshold_for_saving(cosines, 0.4)


def test_space_is_the_first_that_rises():
    rising, falling = torch.linspace(0, 1, 8).expand(2, 8), torch.linspace(1, 0, 8).expand(2, 8)
    recorded = calibration.Recorded(calibration.Trajectories(8), {"noise": falling, "denoised": rising}, None)
    assert calibration.rising_space(recorded) == "denoised"
    recorded.cosines["noise"] = rising
    assert calibration.rising_space(recorded) == "noise"


def command(*extra, model, prompt_file, output):
    base = ["calibrate", "linear-ag", "--model", model, "--prompt-file", prompt_file, "--steps", STEPS]
    base += ["--guidance-scale", 5, "--batch-size", 2, "--output", output]
    return main([str(word) for word in [*base, *extra]])


def test_linear_ag_from_the_command_line(tiny_sd, prompt_file, tmp_path, capsys):
    output = tmp_path / "c.json"
    assert command("--json", model=tiny_sd, prompt_file=prompt_file, output=output) == 0
    report = json.loads(capsys.readouterr().out)
    coefficients = Coefficients.load(output)
    assert (coefficients.steps, coefficients.samples) == (STEPS, 4)
    assert (report["samples"], report["fitted"]) == (2, 4)
    assert report["evaluations"] == coefficients.evaluations == 5
    assert report["full"] == 2 * STEPS
    assert -1 <= report["similarity"] <= 1
    assert not list(tmp_path.glob("*.partial*"))

    picture = ["generate", "dog", "--model", str(tiny_sd), "--steps", str(STEPS), "--output", str(tmp_path / "dog.png")]
    spec = f"linear-ag:coefficients={output}"
    assert main([*picture, "--guidance", spec, "--guidance-scale", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["evaluations"] == 5
    again = ["generate", "--from-image", str(tmp_path / "dog.png"), "--output", str(tmp_path / "again.png")]
    assert main(again) == 0
    assert main(["generate", "dog", "--model", str(tiny_sd), "--steps", "5", "--guidance", spec]) == 2
    assert "fitted for steps 4, not 5" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, DDIMScheduler])
def test_coefficients_are_held_to_the_noise_levels_of_the_fit(pipe, kind):
    """With levels spaced in another way, and in the second half of an image-to-image sampling of twice the steps."""
    spaced = {"timestep_spacing": "leading", "steps_offset": 1}
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **spaced)
    rule = calibration.linear_rule(record(Setting(pipe, 5.0, STEPS, PROMPTS), range(3)), 5.0)
    assert len(rule.coefficients.levels) == STEPS
    guided, run = guide(pipe, rule), {"num_inference_steps": STEPS, "output_type": "latent"}
    guided("dog", negative_prompt="", **run)
    pipe.scheduler = kind.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    with pytest.raises(ValueError, match=r"at step 1, not .*, which another spacing"):
        guided("dog", **run)
    guided.remove()
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **spaced)
    later = guide(StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False), rule)
    with pytest.raises(ValueError, match=f"fitted for noise level {rule.coefficients.levels[0]:.4g} at step 1, not"):
        later("dog", image=torch.zeros(1, 3, 64, 64), strength=0.5, num_inference_steps=2 * STEPS)


def test_a_negative_prompt_was_not_there_when_coefficients_were_fitted(pipe):
    rule = calibration.linear_rule(record(Setting(pipe, 5.0, STEPS, PROMPTS), range(3)), 5.0)
    for around in (rule, Rescale(rule)):
        with guide(pipe, around) as guided, pytest.warns(UserWarning, match="fitted without a negative prompt"):
            guided("dog", negative_prompt="cat", num_inference_steps=STEPS, output_type="latent")


def test_a_second_calibration_of_one_output_is_refused(tiny_sd, prompt_file, tmp_path, monkeypatch, capsys):
    output, images, statuses = tmp_path / "c.json", Setting.images, []

    def meanwhile(self, rule: Guidance, batch: range):
        monkeypatch.setattr(Setting, "images", images)
        statuses.append(command("--overwrite", model=tiny_sd, prompt_file=prompt_file, output=output))
        return images(self, rule, batch)

    monkeypatch.setattr(Setting, "images", meanwhile)
    assert command(model=tiny_sd, prompt_file=prompt_file, output=output) == 0
    assert statuses == [2]
    assert f"another calibration is at work on {str(output)!r}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir() if "c.json" in path.name) == ["c.json"]


def test_interrupted_goes_on(tiny_sd, prompt_file, tmp_path, monkeypatch, capsys):
    whole, resumed = tmp_path / "whole.json", tmp_path / "resumed.json"
    assert command(model=tiny_sd, prompt_file=prompt_file, output=whole) == 0
    images, calls = Setting.images, []

    def interrupted(self, rule: Guidance, batch: range):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return images(self, rule, batch)

    monkeypatch.setattr(Setting, "images", interrupted)
    assert command(model=tiny_sd, prompt_file=prompt_file, output=resumed) == 130
    monkeypatch.setattr(Setting, "images", images)
    assert main(["calibrate", "linear-ag", "--model", str(tiny_sd), "--prompt-file", str(prompt_file), "--steps", "5",
                 "--guidance-scale", "5", "--output", str(resumed)]) == 2  # fmt: skip
    assert "another steps" in capsys.readouterr().err
    scheduler = tiny_sd / "scheduler" / "scheduler_config.json"
    before = scheduler.read_text()
    scheduler.write_text(before + "\n")
    assert command(model=tiny_sd, prompt_file=prompt_file, output=resumed) == 2
    assert "another content of the model: delete it" in capsys.readouterr().err
    scheduler.write_text(before)
    assert command(model=tiny_sd, prompt_file=prompt_file, output=resumed) == 0
    assert "goes on after 2 of 4 prompts" in capsys.readouterr().err
    assert Coefficients.load(resumed) == Coefficients.load(whole)


def test_prompts_of_the_fit_are_never_held_out(tiny_sd, prompt_file, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise UserError("the disk is full")

    output = tmp_path / "c.json"
    few = ["--model", tiny_sd, "--prompt-file", prompt_file, "--steps", 3, "--guidance-scale", 5, "--output", output]
    with monkeypatch.context() as patch:
        patch.setattr("diffguide.pipelines.calibration.judge", full)
        assert main(["calibrate", "ag", *map(str, few)]) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert main(["calibrate", "linear-ag", "--held-out", "0.75", *map(str, few)]) == 2
    assert "of a calibration with another number held out: delete it" in capsys.readouterr().err
    assert not output.exists()


def test_more_prompts_than_there_are_to_record_is_damage(pipe, tmp_path):
    setting, output = Setting(pipe, 5.0, 1, PROMPTS), tmp_path / "c.json"
    recorded_with_resume(setting, range(3), output, {})
    with pytest.raises(UserError, match=r"c\.json\.partial' is damaged"):
        recorded_with_resume(setting, range(2), output, {})


@pytest.mark.parametrize("rule", ["ag", "linear-ag"])
def test_a_failed_write_leaves_the_old_file(rule, tiny_sd, prompt_file, tmp_path, capsys, monkeypatch):
    output, replace = tmp_path / "c.json", os.replace
    output.write_text("old")

    def fail(source, target):
        if target == output:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    rest = ["--model", tiny_sd, "--prompt-file", prompt_file, "--steps", 3, "--guidance-scale", 5, "--output", output]
    assert main(["calibrate", rule, *map(str, rest), "--overwrite"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.glob("*c.json*")) == ["c.json", "c.json.partial"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--held-out", "0.95"], "a --held-out of 0.95 leaves none of 6 prompts to fit to"),
        (["--output", "nowhere/c.json"], "cannot write the calibration 'nowhere/c.json': there is no folder 'nowhere'"),
        (["--output", "folder", "--overwrite"], "the calibration 'folder' is a folder"),
        (["--output", "x" * 300], "File name too long"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(words, message, prompt_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffguide.pipelines.loading.load_pipeline", lambda *args, **kwargs: pytest.fail("loaded"))
    (tmp_path / "folder").mkdir()
    assert main(["calibrate", "ag", "--prompt-file", str(prompt_file), *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ag", "--saving", "0.9"], "a saving of 0.9 is not possible"),
        (["ag", "--saving", "2"], "'2' is not a number between 0 and 1"),
        (["linear-ag", "--saving", "0.2"], "--saving and --similarity are for ag"),
        (["apg"], "unknown RULE 'apg'"),
        (["ag", "--steps", "2"], "fewer than 3 steps"),
        (["ag", "--guidance-scale", "1"], "a scale of 1"),
    ],
)
def test_mistakes_are_one_line(words, message, tiny_sd, prompt_file, tmp_path, capsys):
    rest = ["--model", tiny_sd, "--prompt-file", prompt_file, "--output", tmp_path / "c.json"]
    defaults = [
        word
        for name, value in (("--steps", "3"), ("--guidance-scale", "5"))
        if name not in words
        for word in (name, value)
    ]
    assert main(["calibrate", *words, *map(str, rest), *defaults]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory: try a smaller --batch-size or --dtype"),
        (MemoryError(), "out of memory: try a smaller --batch-size or --dtype"),
        (ValueError("`prompt` has to be\nof another kind"), "`prompt` has to be of another kind"),
    ],
)
def test_failures_inside_the_pipeline_are_one_line(tiny_sd, prompt_file, tmp_path, capsys, monkeypatch, error, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("diffusers.StableDiffusionPipeline.encode_prompt", fail)
    assert command(model=tiny_sd, prompt_file=prompt_file, output=tmp_path / "c.json") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"diffguide: error: {message}")
    assert err.count("\n") == 1


def test_a_bug_in_the_pipeline_is_not_hidden(pipe, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("diffusers.StableDiffusionPipeline.encode_prompt", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        Setting(pipe, 5.0, STEPS, PROMPTS).images(ClassifierFreeGuidance(5.0), range(2))


def test_a_pipeline_of_videos_is_named():
    size = {"height": 16, "width": 16, "num_frames": 3}
    setting = Setting(seeded(animatediff), 5.0, STEPS, PROMPTS, arguments=size)
    with pytest.raises(UserError, match="AnimateDiffPipeline makes no pictures"):
        setting.images(ClassifierFreeGuidance(5.0), range(1))


def test_too_few_prompts_and_a_file_that_exists(tiny_sd, tmp_path, prompt_file, capsys):
    few = tmp_path / "few.txt"
    few.write_text("one\ntwo")
    assert command(model=tiny_sd, prompt_file=few, output=tmp_path / "c.json") == 2
    assert "has 2 prompts" in capsys.readouterr().err
    (tmp_path / "c.json").write_text("mine")
    assert command(model=tiny_sd, prompt_file=prompt_file, output=tmp_path / "c.json") == 2
    assert (tmp_path / "c.json").read_text() == "mine"
