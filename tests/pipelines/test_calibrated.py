"""The calibrations that ship with the embedded models are what the short names mean there."""

import json

import pytest

from diffguide.eval.cli import main
from diffguide.guidance import Coefficients
from diffguide.pipelines.calibrated import calibrated_options, rule_on
from diffguide.pipelines.embedded import EMBEDDED

MODELS = [name for name, row in EMBEDDED.items() if row.denoiser and row.guidance != "native"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("steps", [20, 25])
def test_embedded_models_are_calibrated(model, steps):
    options = calibrated_options("linear-ag", model, steps)
    assert isinstance(options["coefficients"], Coefficients)
    assert (options["coefficients"].model, options["coefficients"].steps) == (model, steps)
    ag = rule_on(model, "ag", 4.0, steps, None)
    assert (ag.threshold, ag.space) != (0.991, "noise")


def test_what_is_given_counts_over_what_is_calibrated():
    assert rule_on("emoji-sd", "ag:threshold=0.5", 4.0, 20, None).threshold == 0.5
    assert calibrated_options("ag", "some/model", 20) == {}
    assert calibrated_options("apg", "emoji-sd", 20) == {}


def test_other_steps_and_schedulers_say_what_there_is(capsys):
    for words in (["--steps", "7"], ["--steps", "20", "--scheduler", "ddim"]):
        assert main(["generate", "dog", "--guidance", "linear-ag", *words]) == 2
        error = capsys.readouterr().err
        assert "coefficients of emoji-sd for 20 or 25 steps" in error
        assert "calibrate linear-ag" in error


@pytest.mark.parametrize(("rule", "most"), [("ag", 38), ("linear-ag", 25)])
def test_they_save_evaluations_and_make_the_same_picture_again(rule, most, tmp_path, capsys):
    picture, again = tmp_path / "dog.png", tmp_path / "again.png"
    words = ["generate", "dog face", "--guidance", rule, "--steps", "20", "--output", str(picture), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["evaluations"] <= most
    assert main(["generate", "--from-image", str(picture), "--output", str(again)]) == 0
    from PIL import Image

    assert Image.open(picture).tobytes() == Image.open(again).tobytes()


def test_a_threshold_is_that_of_its_space():
    fitted = rule_on("emoji-sd", "ag", 4.0, 20, None)
    assert rule_on("emoji-sd", f"ag:space={fitted.space}", 4.0, 20, None).threshold == fitted.threshold
    other = rule_on("emoji-sd", "ag:space=noise", 4.0, 20, None)
    assert (other.threshold, other.space) == (0.991, "noise")
    given = rule_on("emoji-sd", "ag:threshold=0.5", 4.0, 20, None)
    assert (given.threshold, given.space) == (0.5, fitted.space)
