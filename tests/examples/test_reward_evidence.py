"""The evidence: every arm draws, from the same noise; what is measured of them."""

import argparse

import numpy as np
import pytest
import torch


def test_arms_draw_the_same_prompts_from_the_same_noise(trainer, trained, tmp_path):
    options = {"steps": 2, "guidance_scale": 4.0, "best_of": [1, 2], "strengths": [0.0, 0.3], "bounds": [0.02]}
    args = argparse.Namespace(**options, latent_rewards=[], students=[])
    evidence = trainer("evidence")
    prompts, seeds = evidence.plan(2, 0)
    assert len(set(prompts)) == len(set(seeds)) == 2
    made = {}
    for name, arm in evidence.arms(args).items():
        file = tmp_path / f"{name}.safetensors"
        made[name], seconds = evidence.sampled(arm, prompts, seeds, 2, file)
        again = evidence.sampled(lambda *call: pytest.fail("sampled twice"), prompts, seeds, 2, file)
        assert torch.equal(again[0], made[name])
        assert again[1] == pytest.approx(seconds)
    torch.testing.assert_close(made["best of 1"], made["lcm"], atol=1.01 / 255, rtol=0)  # one by one, rounded
    for name in ("reward 0", "reward 0, KL 0.02"):
        assert torch.equal(made[name], made["lcm"])
    for name in ("reward 0.3", "reward 0.3, KL 0.02"):
        assert not torch.equal(made[name], made["lcm"])
    score = evidence.load_reward(evidence.REWARD)
    assert (score(made["best of 2"], prompts) >= score(made["lcm"], prompts) - 1e-3).all()
    assert score(made["reward 0.3"], prompts).mean() > score(made["lcm"], prompts).mean()


def test_images_are_kept_by_all_that_they_depend_on(trainer, tmp_path, monkeypatch, capsys):
    evidence = trainer("evidence")

    def asked(*words):
        monkeypatch.setattr("sys.argv", ["evidence.py", "--output", str(tmp_path), *map(str, words)])
        return evidence.arguments()

    weights = tmp_path / "student" / evidence.UPDATE
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    args, name = asked("--students", f"mine={weights.parent}", "--latent-rewards", weights.parent), evidence.file_name
    assert name(args, "reward 0.3") == "reward-0.3-4-4-0.safetensors"
    before = [name(args, arm) for arm in ("mine", "latent reward", "ensemble mean")]
    assert before == [name(args, arm) for arm in ("mine", "latent reward", "ensemble mean")]
    weights.write_bytes(b"two")
    assert not {name(args, arm) for arm in ("mine", "latent reward", "ensemble mean")} & set(before)
    args.strengths = [0.1, 1.0]
    assert name(args, "latent reward") not in before
    for words, message in (
        (["--students", "lcm=x"], "none of an arm here, not lcm=x"),
        (["--students", "a=x", "a=y"], "each NAME once"),
        (["--students", "x"], "takes NAME=FOLDER"),
        (["--num-images", 7], "at least 8, below which there is no interval"),
    ):
        with pytest.raises(SystemExit):
            asked(*words)
        assert message in capsys.readouterr().err


def test_high_frequencies(trainer):
    high_frequency = trainer("measure").high_frequency
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    wave = torch.sin(torch.arange(64) * 2 * torch.pi * 3 / 64).expand(64, 64)
    images = torch.stack([board.float(), wave / 2 + 0.5, torch.full((64, 64), 0.3)])[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(high_frequency(images), torch.tensor([1.0, 0.0, 0.0]), atol=1e-4, rtol=0)


def test_the_table_has_paired_intervals(trainer):
    measure = trainer("measure")
    random = np.random.default_rng(0)
    noise = random.normal(size=64)
    results = {}
    for name, shift in (("first", 0.0), ("better", 0.5)):
        values = noise + shift + 0.01 * random.normal(size=64)
        columns = {column: measure.Measured(float(values.mean()), values) for column in measure.COLUMNS}
        results[name] = columns | {"precision": 0.5, "recall": 0.25}
    rows = measure.table(results, {"first": 1.0, "better": 2.0})
    value, low, high = rows.values["better"]["reward"]["difference"]
    assert low < value < high
    assert (low, high) == pytest.approx((0.5, 0.5), abs=0.02)  # the noise that both share cancels
    assert rows.markdown.splitlines()[-1].startswith("| better |")
    assert rows.markdown.splitlines()[2].endswith("| 0.500 | 0.250 | 1.000 |")
