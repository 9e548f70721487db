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
    assert set(contenders.rules()) - not_rules == measured


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
    run("evaluations.py", *options, "--ag-threshold", -1)
    (result,) = json.loads(file.read_text())["results"]
    rows = {row["name"].split(",")[0]: row for row in result["rows"]}
    assert rows["pipeline"]["evaluations"] == 8
    assert rows["AG"]["evaluations"] == 5
    assert rows["diffusers cutoff callback at half"]["evaluations"] == 7
    assert (rows["diffusers FasterCache"]["broken"] == "") == (model == "emoji-flow")
    assert result["pairs"] == 1
    plain, engine = result["rows"][:2]
    assert (plain["psnr"], engine["psnr"]) == (None, None)
    assert 0.3 < rows["AG"]["ssim"] < 1
