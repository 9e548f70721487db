import importlib
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "examples" / "results"
TRAINER = FOLDER.with_name("train_lcd")


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def trainer(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINER))
    return importlib.import_module


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    colours = ["red", "green", "blue", "white"]
    for colour in colours:
        Image.new("RGB", (80, 64), colour).save(folder / f"{colour}.png")
    lines = [json.dumps({"file_name": f"{colour}.png", "text": f"{colour} square"}) for colour in colours]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def train(trainer, tiny_sd, images, monkeypatch):
    def run(output, *options, steps=4):
        argv = ["train_lcd.py", "--teacher", tiny_sd, "--data", images, "--output", output, "--steps", steps]
        argv += ["--batch-size", 2, "--log-every", 1, "--rank", 4, "--save-minutes", 0, *options]
        monkeypatch.setattr(sys, "argv", [str(value) for value in argv])
        trainer("train_lcd").main()
        return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]

    return run
