"""The benchmarks run, at settings too small to say anything, and measure every rule there is."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffguide.guidance import AdaptiveProjectedGuidance, Step

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def run(name, *args):
    command = [sys.executable, str(BENCHMARKS / name), *map(str, args)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_rule_cost(tmp_path):
    file = tmp_path / "cost.json"
    out = run(
        "rule_cost.py", "--shapes", "4x16x16", "--dtypes", "float32", "--batches", 2, "--seconds", 0, "--json", file
    )
    assert "4x16x16 4x16x16, float32, batch 2; 3 rounds" in out
    rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
    assert (rows["plain"]["memory"], rows["torch.add"]["memory"]) == (2, 1)
    ours = [row for name, row in rows.items() if name.startswith("diffguide")]
    assert all(row["ratio"] > 0 and row["ratio_traced"] > 0 and row["memory"] >= 1 for row in ours)
    assert not any(row["broken"] for row in ours)
    assert rows["diffusers AdaptiveProjectedGuidance"]["memory"] > rows["diffguide AdaptiveProjectedGuidance"]["memory"]


def test_every_rule_is_measured(benchmarks):
    contenders = benchmarks("contenders")
    measured = {name.split()[0] for name in (*contenders.LINEAR, *contenders.AROUND, *contenders.OTHERS)}
    not_rules = {"Guidance", "Modifier", "Correction", "Conditional", "RewardGuidance"}
    not_of_predictions = {"NormalizedAttentionGuidance"}
    assert set(contenders.rules()) - not_rules - not_of_predictions == measured


def test_peak_memory_is_that_of_storages_alive_at_once(benchmarks):
    peak_bytes = benchmarks("memory_use").peak_bytes
    held, cpu = torch.ones(1000), torch.device("cpu")
    assert peak_bytes(lambda: held + 1, cpu) == 4000
    assert peak_bytes(lambda: held.view(10, 100).mul_(1.0), cpu) == 0
    assert peak_bytes(lambda: (held + 1) * (held + 2), cpu) == 12000
    assert peak_bytes(lambda: ((held + 1) + 2) + 3, cpu) == 8000
    assert peak_bytes(lambda: torch.add(held, 1, out=held), cpu) == 0


def test_apg_needs_two_latents(benchmarks):
    peak_bytes = benchmarks("memory_use").peak_bytes
    rule, tensors = AdaptiveProjectedGuidance(7.5), [torch.randn(1, 4, 64, 64) for _ in range(3)]
    step = Step(3, 20, 500.0, 0.5, "flow", (1.0, -0.5), (1.0, 0.5))
    rule.guide(*tensors, step)
    scalars = 1000
    assert peak_bytes(lambda: rule.guide(*tensors, step), torch.device("cpu")) < 2 * tensors[0].nbytes + scalars


@pytest.mark.parametrize("model", ["emoji-sd", "emoji-flow"])
def test_evaluations(trained, tmp_path, model):
    file = tmp_path / "saving.json"
    options = ["--models", model, "--batches", 1, "--steps", 4, "--seconds", 0, "--rounds", 1, "--json", file]
    out = run("evaluations.py", *options, "--ag-threshold", -1, "--short-steps", 3)
    (result,) = json.loads(file.read_text())["results"]
    rows = {row["name"].split(",")[0]: row for row in result["rows"]}
    assert rows["pipeline"]["evaluations"] == 8
    assert rows["AG"]["evaluations"] == 5
    assert rows["diffusers cutoff callback at half"]["evaluations"] == 7
    assert not any(row["broken"] for row in rows.values())
    assert 5 <= rows["diffusers FasterCache"]["evaluations"] < 8
    assert (result["pairs"], result["short_steps"]) == (1, 3)
    assert 0 < result["conditional_denoiser_to_full"][0] < 1
    assert "1 rounds of runs of 3 steps" in out
    plain, engine = result["rows"][:2]
    assert (plain["psnr"], engine["psnr"]) == (None, None)
    assert 0.3 < rows["AG"]["ssim"] < 1


def test_the_engine_costs_what_it_spends_outside_of_the_denoiser(benchmarks):
    cost = benchmarks("engine_cost")
    bare = cost.Run(whole=(10.0, 12.0), outside=(1.0, 3.0), steps=(2.0, 2.0), denoiser=(1.9, 1.9), between=(0.1, 0.1))
    engine = cost.Run(whole=(11.0, 18.0), outside=(1.5, 3.0), steps=(2.5, 4.0), denoiser=(2.3, 3.8), between=(0.2, 0.2))
    half = cost.Run(whole=(6.0, 9.0), outside=(1.5, 3.0), steps=(1.25, 1.0), denoiser=(1.15, 0.8), between=(0.1, 0.2))
    assert cost.ratios(bare, engine, half, steps=4) == pytest.approx({
        "engine_to_bare": 1.1, "engine_to_bare_wall": 1.5,
        "engine_to_bare_outside": 1.05, "engine_step_to_bare": 1.05, "step_ms": 100.0, "setup_ms": 100.0,
        "conditional_step_to_full": 0.5, "conditional_step_to_full_wall": 0.25, "conditional_denoiser_to_full": 0.5,
    })  # fmt: skip


def test_the_denoiser_is_timed_and_left_as_it_was(benchmarks):
    watch = benchmarks("engine_cost").Watch(torch.nn.Flatten(), "cpu")
    with watch.timing_the_denoiser():
        watch.denoiser(torch.ones(2, 3, 4))
    assert "forward" not in vars(watch.denoiser)
    spent = list(watch.inside)
    assert min(spent) > 0
    watch.denoiser(torch.ones(2, 3, 4))
    assert watch.inside == spent
