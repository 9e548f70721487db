import json
from pathlib import Path

import pytest
import torch

from diffguide.eval.cli import main
from diffguide.guidance import AdaptiveProjectedGuidance
from diffguide.pipelines import guide, load_pipeline, sampling, traces
from diffguide.pipelines.errors import UserError


@pytest.fixture
def here(tmp_path, monkeypatch, embedded):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def generate(*args):
    return main(["generate", *map(str, args), "--steps", "3", "--device", "cpu", "--guidance-scale", "4"])


def pictures(path="trace.json"):
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    assert content["version"] == 1
    return content["pictures"]


def test_a_trace_is_that_of_the_library(here, capsys):
    assert generate("red apple", "--guidance", "apg", "--seed", 3, "-o", "a.png", "--trace", "trace.json") == 0
    assert capsys.readouterr().out.split() == ["a.png", "trace.json"]
    guided = guide(load_pipeline("emoji-sd", device="cpu", progress_bar=False), AdaptiveProjectedGuidance(4.0))
    guided("red apple", num_inference_steps=3, generator=torch.Generator().manual_seed(3))
    (picture,) = pictures()
    assert (picture["path"], picture["prompt"], picture["seed"]) == ("a.png", "red apple", 3)
    assert picture["trace"] == guided.trace.to_dict()
    assert picture["trace"]["rule"].startswith("AdaptiveProjectedGuidance(guidance_scale=4.0, eta=0.0")
    assert [step["index"] for step in picture["trace"]["steps"]] == [0, 1, 2]


def test_each_picture_of_a_batch_has_its_own_numbers(here):
    prompts = here / "prompts.txt"
    prompts.write_text("red apple\ngreen pear\n", encoding="utf-8")
    for size in (1, 3):
        options = ["--seeds", "0-1", "--batch-size", size, "-o", f"out{size}", "--trace", f"{size}.json"]
        assert generate("--prompt-file", prompts, *options) == 0
    alone, together = pictures("1.json"), pictures("3.json")
    assert [(one["prompt"], one["seed"]) for one in together] == [
        ("red apple", 0),
        ("red apple", 1),
        ("green pear", 0),
        ("green pear", 1),
    ]
    assert [one["path"] for one in together] == [
        f"out3/{name}-{seed}.png" for name in ("red-apple", "green-pear") for seed in (0, 1)
    ]
    norms = [one["trace"]["steps"][0]["difference_norm"] for one in together]
    assert len({tuple(norm) for norm in norms}) == 4
    for one, other in zip(alone, together):
        for first, second in zip(one["trace"]["steps"], other["trace"]["steps"]):
            for name in ("cosine", "ratio", "difference_norm", "update_norm", "effective_scale"):
                assert first[name] == pytest.approx(second[name], rel=1e-4)
                assert len(first[name]) == 1


def test_a_second_order_solver_has_a_record_for_each_evaluation(here):
    assert generate("red apple", "--scheduler", "heun", "-o", "a.png", "--trace", "trace.json") == 0
    steps = pictures()[0]["trace"]["steps"]
    assert [step["index"] for step in steps] == list(range(5))
    assert len({step["timestep"] for step in steps}) == 3


def test_in_json_the_trace_is_named(here, capsys):
    assert generate("red apple", "-o", "a.png", "--trace", "trace.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)["trace"] == "trace.json"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--guidance", "native", "--trace", "t.json"],
            "the guidance 'native' is the pipeline's own, which has no trace",
        ),
        (["--trace", "t.png"], "a trace is JSON: name it 't.json', not 't.png'"),
        (["--trace", "mine.json"], "'mine.json' exists already: give --overwrite or another --trace"),
        (["--trace", "folder.json"], "the trace 'folder.json' is a folder"),
        (["--trace", "no/t.json"], "there is no folder 'no' to write to"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_loaded(here, capsys, monkeypatch, options, message):
    monkeypatch.setattr("diffguide.pipelines.loading.load_pipeline", lambda *a, **k: pytest.fail("loaded"))
    (here / "mine.json").write_text("mine")
    (here / "folder.json").mkdir()
    assert generate("red apple", *options, "-o", "out") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (here / "out").exists()
    assert (here / "mine.json").read_text() == "mine"


def test_overwrite_replaces(here):
    (here / "trace.json").write_text("mine")
    assert generate("red apple", "-o", "a.png", "--trace", "trace.json", "--overwrite") == 0
    assert len(pictures()) == 1


def test_an_interruption_keeps_the_traces_of_what_is_finished(here, monkeypatch):
    original, calls = sampling.call_pipeline, []

    def interrupted(pipe, arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(pipe, arguments)

    monkeypatch.setattr(sampling, "call_pipeline", interrupted)
    assert generate("red apple", "--seeds", "0-4", "-o", "out", "--trace", "trace.json") == 130
    assert [one["seed"] for one in pictures()] == [0, 1]


def out_of_memory(monkeypatch, at):
    original, calls = sampling.call_pipeline, []

    def fail(pipe, arguments):
        calls.append(1)
        if len(calls) == at:
            raise UserError("out of memory: try less")
        return original(pipe, arguments)

    monkeypatch.setattr(sampling, "call_pipeline", fail)


def test_an_error_keeps_the_traces_of_what_is_finished(here, capsys, monkeypatch):
    out_of_memory(monkeypatch, at=3)
    assert generate("red apple", "--seeds", "0-4", "-o", "out", "--trace", "trace.json") == 2
    assert capsys.readouterr().err == "diffguide: error: out of memory: try less\n"
    assert [one["seed"] for one in pictures()] == [0, 1]


def test_an_error_is_not_hidden_by_traces_that_cannot_be_written(here, capsys, monkeypatch):
    out_of_memory(monkeypatch, at=2)

    def full(path, entries):
        raise UserError("no space left")

    monkeypatch.setattr(traces, "_write", full)
    assert generate("red apple", "--seeds", "0-4", "-o", "out", "--trace", "trace.json") == 2
    assert capsys.readouterr().err == "diffguide: error: out of memory: try less\n"


def test_an_error_before_the_first_picture_leaves_the_file_alone(here, monkeypatch):
    (here / "trace.json").write_text("mine")
    out_of_memory(monkeypatch, at=1)
    assert generate("red apple", "-o", "a.png", "--trace", "trace.json", "--overwrite") == 2
    assert (here / "trace.json").read_text() == "mine"
