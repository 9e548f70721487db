"""Two runs into one output."""

import os
from pathlib import Path

import pytest
from test_generate import generate

from diffguide.pipelines import sampling
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.output import plan_output


@pytest.fixture
def here(tmp_path, monkeypatch, embedded):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("seeds", ["0", "0-1"])
def test_a_second_run_into_one_output_is_refused_and_what_it_found_stays(here, monkeypatch, capsys, seeds):
    real, statuses, words = sampling.sample, [], ["red apple", "--seeds", seeds, "-o", "apples"]

    def sample(*args):
        monkeypatch.setattr(sampling, "sample", real)
        statuses.append(generate(*words, "--overwrite"))
        statuses.append(generate("green pear", "-o", "apples/pear.png"))  # a picture by itself is in nobody's way
        yield from real(*args)

    (here / "apples").mkdir()
    for name in (".diffguide.lock", ".red-apple-0.png.lock"):  # of runs that were killed
        (here / "apples" / name).touch()
    monkeypatch.setattr(sampling, "sample", sample)
    assert generate(*words) == 0
    assert statuses == [2, 0]
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "another run is at work on 'apples" in errors[0]
    assert generate(*words, "--overwrite") == 0


def test_a_lock_that_holds_something_is_not_ours_and_stays(here):
    Path(".diffguide.lock").write_text("mine")
    Path(".lock").write_text("")
    assert generate("red apple", "--seeds", "0-1", "--output", ".") == 0
    assert Path(".diffguide.lock").read_text() == "mine"
    assert Path(".lock").exists()


def test_files_that_another_run_wrote_in_the_meantime_stay(tmp_path):
    output = plan_output([("a", 0)], str(tmp_path / "a.png"), overwrite=False)
    (tmp_path / "a.png").write_bytes(b"its picture")
    with pytest.raises(UserError, match="exists already"), output.held():
        pass
    assert os.listdir(tmp_path) == ["a.png"]
