import json
import os
from dataclasses import asdict, replace

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffguide.pipelines import metadata
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.metadata import Settings, parameters_text, read_settings, save_png, versions

SETTINGS = Settings(
    prompt="red apple",
    model="emoji-sd",
    seed=3,
    height=64,
    width=96,
    negative_prompt="worm",
    rule="apg",
    options={"eta": 0.0, "norm_threshold": None, "momentum": -0.5},
    guidance_scale=10.0,
    steps=25,
    scheduler_class="DDIMScheduler",
    evaluations=37,
    versions={"diffguide": "0.1.0"},
)
IMAGE = Image.new("RGB", (96, 64), "red")


def test_the_parameters_are_those_of_the_web_ui():
    assert parameters_text(SETTINGS).split("\n") == [
        "red apple",
        "Negative prompt: worm",
        "Steps: 25, Sampler: DDIMScheduler, CFG scale: 10, Seed: 3, Size: 96x64, Model: emoji-sd, Guidance rule: apg, "
        "APG eta: 0, APG momentum: -0.5, NFE: 37, Version: diffguide 0.1.0",
    ]


def test_what_is_unknown_is_left_out_and_separators_are_quoted():
    text = parameters_text(Settings("red apple", 'folder/a, b: "c"', 0, 64, 64))
    assert text == 'red apple\nSeed: 0, Size: 64x64, Model: "a, b: \\"c\\"", Guidance rule: native, Version: diffguide'


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, prompt='apfel, 苹果 🍎 "quoted"\nsecond line', negative_prompt=None),
        replace(SETTINGS, guidance_scale=None, steps=None, evaluations=None, options={}),
        replace(SETTINGS, seed=2**63 - 1, guidance_scale=7, evaluations=12.5),
    ],
)
def test_settings_are_read_back_as_they_were(tmp_path, settings):
    path = tmp_path / "x.png"
    save_png(IMAGE, path, settings)
    assert read_settings(path) == settings
    with Image.open(path) as image:
        assert image.info["parameters"] == parameters_text(settings)
        assert image.tobytes() == IMAGE.tobytes()


def test_the_versions_of_all_that_matters():
    assert set(versions()) == {"diffguide", "torch", "diffusers", "transformers", "python"}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"cannot write '.*x\.png': No space left"):
        save_png(IMAGE, path, SETTINGS)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.png"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        save_png(IMAGE, tmp_path / "nowhere" / "x.png", SETTINGS)


def _with_chunk(path, text):
    info = PngInfo()
    info.add_text("diffguide", text)
    IMAGE.save(path, pnginfo=info)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "3"}, "'seed' of the wrong type: '3'"),
        ({"seed": True}, "'seed' of the wrong type"),
        ({"prompt": None}, "'prompt' of the wrong type"),
        ({"steps": 2.5}, "'steps' of the wrong type"),
        ({"options": [1]}, "'options' of the wrong type"),
        ({"options": {"eta": {"a": 1}}}, "an option that is not a plain value"),
        ({"guidance_scale": "7"}, "'guidance_scale' of the wrong type"),
    ],
)
def test_values_of_the_wrong_type_are_refused(tmp_path, change, message):
    path = _with_chunk(tmp_path / "x.png", json.dumps(asdict(SETTINGS) | change))
    with pytest.raises(UserError, match=message):
        read_settings(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"prompt": "x"}', "lacks 'height'"),
        ("x" * (metadata.MAX_BYTES + 1), "is longer than"),
    ],
)
def test_chunks_that_we_did_not_write(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_settings(_with_chunk(tmp_path / "x.png", text))


def test_unknown_keys_of_a_later_version_are_passed_over(tmp_path):
    path = _with_chunk(tmp_path / "x.png", json.dumps(asdict(SETTINGS) | {"later": 1}))
    assert read_settings(path) == SETTINGS


def test_files_that_are_not_our_pictures(tmp_path):
    IMAGE.save(tmp_path / "plain.png")
    with pytest.raises(UserError, match="no diffguide chunk"):
        read_settings(tmp_path / "plain.png")
    IMAGE.save(tmp_path / "x.jpg")
    with pytest.raises(UserError, match="not a PNG picture"):
        read_settings(tmp_path / "x.jpg")
    with pytest.raises(UserError, match="No such file"):
        read_settings(tmp_path / "nothing.png")
    with pytest.raises(UserError, match="Is a directory"):
        read_settings(tmp_path)
    whole = (tmp_path / "plain.png").read_bytes()
    for length in (0, 8, 20, 40):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_settings(tmp_path / "cut.png")


def test_a_contact_sheet_has_no_settings_of_its_own(tmp_path):
    save_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", sheet=True)
    with pytest.raises(UserError, match="is a contact sheet: give one of its pictures"):
        read_settings(tmp_path / "a.png")
