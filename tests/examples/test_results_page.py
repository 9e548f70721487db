"""The results page: a small claim goes from images to the page, and what is not at hand stays as it is there."""

import json

import pytest
import torch


@pytest.fixture
def small_claim(tool, monkeypatch):
    """Two cells of RAAG and plain guidance, at 2 steps and at 3."""
    claims, plans, statements = tool("claims"), tool("plans"), tool("statements")

    def cells(done):
        return [plans.cell("raag", 8.0, 2), plans.cell("cfg", 3.0, 3)]

    def said(done):
        at = statements.Places("few", done["few"])
        few, same, more = at("raag", 8.0, 2), at("cfg", 8.0, 2), at("cfg", 3.0, 3)
        return [
            at.less("fid, same setting", "fid", -1, few, same),
            at.less("saturation, same setting", "saturation", -1, few, same),
            at.less("saturation, other setting", "saturation", -1, few, more),
            at.less("ssim", "ssim", 1, few, same, 0.5),
            at.less("evaluations", "evaluations", -1, few, more),
            at.less("fid, a share more", "fid", -1, few, same, 1.05),
        ]

    def best(done):
        scales = {its["guidance"]: its["guidance_scale"] for its in done["few"]["cells"]}
        return [plans.cell("cfg", 3.0, 2), plans.cell("raag", scales["raag"], 2), plans.cell("raag", 3.0, 2)]

    def said_of_best(done):
        at = statements.Places("best", done["best"])
        return [at.less("best", "fid", -1, at("raag", 8.0, 2), at("cfg", 3.0, 2))]

    part = claims.Part("few", "emoji-sd", ("fid", "saturation", "ssim"), cells, keep="png")
    other = claims.Part("best", "emoji-sd", ("fid", "ssim"), best, keep="png", paired=False)
    charts = (claims.Chart("few", "fid", "steps"), claims.Chart("few", "ratio", "step", ("raag",)))
    small = claims.Claim("A small claim", ("nothing",), ("few",), said, charts, matched="few")
    charts = (claims.Chart("best", "fid", "steps"), charts[0])
    tuned = claims.Claim("A tuned claim", ("nothing",), ("few", "best"), said_of_best, charts, matched="few")
    monkeypatch.setattr(claims, "CLAIMS", {"small": small, "tuned": tuned})
    monkeypatch.setattr(claims, "PARTS", {"few": part, "best": other})
    monkeypatch.setattr(tool("run"), "TUNING", "few")
    for module in ("run", "page"):
        monkeypatch.setattr(tool(module), "CLAIMS", claims.CLAIMS)
        monkeypatch.setattr(tool(module), "PARTS", claims.PARTS)


def unbiased_difference(folder, reference, times):
    """FID of RAAG less `times` that of plain guidance at its setting, each without the jackknife's estimate of bias."""
    from diffguide.eval import image_statistics
    from diffguide.eval.frechet import frechet_from_features
    from diffguide.eval.growth import plan_of
    from diffguide.eval.store import Store

    plan, drawn, values = plan_of(folder), image_statistics(reference), {}
    for cell, place in enumerate(plan.cells):
        features = torch.from_numpy(Store(folder, plan).read_cell(cell)["features_inception"])
        n, every = len(features), torch.arange(len(features))
        left_out = [float(frechet_from_features(features[every != i], drawn)) for i in range(n)]
        values[place.guidance, place.steps] = n * frechet_from_features(features, drawn) - (n - 1) * sum(left_out) / n
    return values["raag", 2] - times * values["cfg", 2]


def check_tuned_from_the_page(tool, reference, output, docs, few):
    """A claim that needs the scales of a comparison, of which there is but the page."""
    path = docs / "results.md"
    words = ["--output", output, "--reference", reference, "--device", "cpu", "--only", "tuned", "--num-images", 8]
    assert tool("run").main([str(word) for word in (*words, "--tuned", path)]) == 0
    assert sorted(its.name for its in output.iterdir()) == ["best", "results.json"]
    record = json.loads((output / "results.json").read_text())
    tuned, best = record["tuned"]["few"], record["parts"]["best"]
    settings = ("guidance", "guidance_scale", "steps")
    assert [[its[name] for name in settings] for its in tuned["cells"]] == [
        [its[name] for name in settings] for its in few["cells"]
    ]
    values = [[its["metrics"]["fid"]["value"] for its in part["cells"]] for part in (tuned, few)]
    assert values[0] == pytest.approx(values[1], abs=0.005)
    # Plain guidance is there at one scale alone: what the other has no own one for is in no difference.
    assert [its["guidance_scale"] for its in best["cells"]] == [3.0, 8.0, 3.0]
    assert {(its["cell"], its["baseline"]) for its in best["differences"]} == {(2, 0)}
    ssim = [its["metrics"]["ssim"]["value"] for its in best["cells"]]
    assert ssim[:2] == [1.0, None]
    assert 0 < ssim[2] < 1

    before, figures = path.read_text(), {its.name: its.read_bytes() for its in (docs / "results").iterdir()}
    assert tool("page").main([str(output), "--docs", str(docs)]) == 0
    text = path.read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| best |")]
    assert "`raag` @ 8, 2 steps \u2212 `cfg` @ 3, 2 steps" in row
    assert "n = 9, seeds 0 to 8; best: emoji-sd, n = 8" in text
    assert f"    {best['run']}" in text
    assert best["run"].endswith(f"--tuned {path} --output runs/results")
    assert {its.name for its in (docs / "results").iterdir()} - figures.keys() == {"tuned-0.png"}
    assert all((docs / "results" / name).read_bytes() == drawn for name, drawn in figures.items())
    assert "results/tuned-1.png" not in text
    page = tool("kept").read_page(path, "")
    assert page.parts["few"] in before
    assert page.sections["small"] in before


def test_a_page_without_the_scales_is_a_mistake(tool, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("# Nothing")
    for path in (page, tmp_path / "none.md"):
        assert tool("run").main(["--output", str(tmp_path / "out"), "--only", "front", "--tuned", str(path)]) == 2
        assert f"{str(path)!r} has no table of the cells of sweep" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_from_images_to_the_page(tool, small_claim, inception, tmp_path, capsys):
    from PIL import Image

    reference = tmp_path / "reference"
    reference.mkdir()
    for index in range(10):
        Image.new("RGB", (64, 64), (25 * index, 255 - 20 * index, 90)).save(reference / f"{index}.png")
    output, docs = tmp_path / "out", tmp_path / "docs"
    words = ["--output", output, "--reference", reference, "--device", "cpu", "--only", "small", "--num-images"]
    run, page = tool("run"), tool("page")
    assert run.main([str(word) for word in (*words, 8)]) == 0

    record = json.loads((output / "results.json").read_text())
    part, (fid, saturation, other, ssim, evaluations, share) = (
        record["parts"]["few"],
        record["claims"]["small"]["statements"],
    )
    ends = ("value", "low", "high")
    own = {entry["metric"]: entry for entry in part["differences"] if entry["guidance"] == "raag"}
    for mine, theirs in ((fid, own["fid"]), (saturation, own["saturation"])):  # as `compare` has it
        assert [mine[end] for end in ends] == pytest.approx([theirs[end] for end in ends], rel=1e-6)
    values = {name: {(c["guidance"], c["steps"]): c["metrics"][name]["value"] for c in part["cells"]} for name in own}
    less = values["saturation"]["raag", 2] - values["saturation"]["cfg", 3]
    assert other["value"] == pytest.approx(less)
    assert less != 0
    assert other["low"] < less < other["high"]
    assert ssim["value"] == pytest.approx(values["ssim"]["raag", 2] - 0.5)
    assert evaluations["value"] == -2
    assert [one["says"] for one in (fid, saturation, other, ssim, evaluations, share) if one["unbiased"]] == [
        "fid, a share more"
    ]
    assert share["value"] == pytest.approx(unbiased_difference(output / "few", reference, 1.05), rel=1e-4)
    assert all(seconds > 0 for seconds in part["seconds"])

    folder = output / "few"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    for fewer in (8, 7):  # what is there stays
        assert run.main([str(word) for word in (*words, fewer)]) == 0
        assert before == {path: path.stat().st_mtime_ns for path in before}
        assert json.loads((output / "results.json").read_text()) == record
    capsys.readouterr()
    assert run.main([str(word) for word in (*words, 8, "--batch-size", 4)]) == 2
    assert "holds another comparison (batch size: 8 there, 4 here)" in capsys.readouterr().err
    assert run.main([str(word) for word in (*words, 9)]) == 0
    assert "3 of 27 to make" in capsys.readouterr().err
    record = json.loads((output / "results.json").read_text())
    (other,) = (its for its in record["claims"]["small"]["statements"] if its["says"] == "saturation, other setting")

    earlier = '# T\n\n| [Of rewards](#reward) | 1 | 0 | 0 |\n\n## <a id="reward"></a>Of rewards\n\nMeasured, n = 77.\n'
    docs.mkdir()
    (docs / "results.md").write_text(earlier)
    for _ in range(2):  # the second replaces what the first wrote
        assert page.main([str(output), "--docs", str(docs)]) == 0
    text = (docs / "results.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("#")][1:] == [
        '## <a id="small"></a>A small claim',
        '## <a id="reward"></a>Of rewards',  # which is not at hand
        "## All cells",
        "### few",
        "## Limits",
    ]
    assert "| [Of rewards](#reward) | 1 | 0 | 0 |" in text
    assert "Cells have 9 or 77 images" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| saturation, other setting |")]
    assert f"{other['value']:.4f}".replace("-", "\u2212") in row
    assert row.endswith(f"| {tool('claims').verdict(-1, other['low'], other['high'])} |")
    assert "| fid, a share more | FID without bias |" in text
    assert f"    {record['parts']['few']['run']}" in text
    assert "n = 9, seeds 0 to 8" in text
    for figure in ("small-0.png", "small-1.png"):
        assert f"(results/{figure})" in text
        with Image.open(docs / "results" / figure) as drawn:
            assert drawn.size == (880, 440)

    check_tuned_from_the_page(tool, reference, tmp_path / "tuned", docs, record["parts"]["few"])

    missing = record["parts"]["few"]["cells"].pop()  # as if another scale were the best by now
    settings = [missing[name] for name in ("guidance", "guidance_scale", "steps")]
    (folder / "results.json").write_text(json.dumps(record["parts"]["few"]))
    plan = json.loads((folder / "plan.json").read_text())
    plan["cells"] = [cell for cell in plan["cells"] if [cell[name] for name in list(cell)[:3]] != settings]
    (folder / "plan.json").write_text(json.dumps(plan))
    run.collect(output, {})
    assert "small is left out: few has no cell of" in capsys.readouterr().err
    assert json.loads((output / "results.json").read_text())["claims"] == {}


def test_what_rewards_do_is_read_from_the_evidence(tool):
    change = {"value": 0.8, "difference": [0.01, 0.002, 0.02]}
    arm = dict.fromkeys(("reward", "judge", "fd", "high_frequency"), change) | {"precision": 0.4, "recall": 0.6}
    given = {"num_images": "128", "students": "['rg-lcd=runs/rg', 'b=c']", "seed": "0", "extractor": "inception"}
    given |= {"steps": "4", "guidance_scale": "4.0"}
    evidence = {"arguments": given, "arms": {"lcm": arm | {"seconds": 0.4}, "rocm-kl": arm | {"seconds": 0.4}}}
    rewarded = tool("rewarded")
    assert [one["verdict"] for one in rewarded.statements(evidence)] == ["holds", "does not hold"]  # judge; FID
    text = rewarded.section(evidence)
    assert "| ROCM (KL) raises the judge's score | 0.0100 [0.0020, 0.0200] | holds |" in text
    assert "evidence.py --num-images 128 --students rg-lcd=runs/rg b=c --seed 0 --extractor inception" in text
    assert "n = 128, seed 0: emoji-lcm and what was trained from it, in 4 evaluations at a scale of 4.0." in text
    assert "| ROCM (KL) has less FID | 0.01 [0.00, 0.02] | does not hold |" in text
    given["extractor"], change["difference"] = "efficientnet-lite0", [0.01, float("nan"), float("nan")]
    assert [one["verdict"] for one in rewarded.statements(evidence)] == ["undecided"] * 2
    assert "| ROCM (KL) has less FD, efficientnet-lite0 | 0.01" in rewarded.section(evidence)
    assert "| rocm-kl | 0.8000 | 0.8000 | 0.80 | 0.8000 | 0.400 | 0.600 | 0.4 |" in text


def of_seeds(seeds, fid, saturation):
    """A record of CFG and RAAG: FID with 1 to either side of it, saturation with 0.1, KID without an interval."""
    cells = []
    for guidance, one, other in zip(("cfg", "raag"), fid, saturation):
        metrics = {
            "fid": {"value": one, "low": one - 1, "high": one + 1},
            "kid": {"value": 0.5, "low": None, "high": None},
            "saturation": {"value": other, "low": other - 0.1, "high": other + 0.1},
            "evaluations": {"value": 4.0, "low": 4.0, "high": 4.0},
        }
        cells.append({"guidance": guidance, "guidance_scale": 2.5, "steps": 2, "metrics": metrics})
    results = {"model": "emoji-sd", "n": seeds[1] - seeds[0] + 1, "seeds": seeds, "cells": cells}
    return results | {"metrics": list(metrics), "seconds": [None, 0.5], "environment": {}, "run": "run"}


def test_what_was_sampled_twice_is_compared(tool):
    page, here = tool("page"), of_seeds([0, 8], (50.0, 49.1), (0.2, 0.3))
    one = {"says": "less", "part": "few", "metric": "fid", "weights": {"1": 1, "0": -1}, "sign": -1}
    statements = [one | {"value": -0.9, "low": -1.1, "high": -0.7}]  # those that follow are not of two values
    statements += [statements[0] | {"unbiased": True}, statements[0] | {"weights": {"1": 1, "0": -1.05}}]
    statements += [statements[0] | {"low": None, "high": None}]

    def compared(seeds, fid):
        parts = {"few": here, "again": of_seeds(seeds, fid, (0.2, 0.35))}
        section = f"## Title\n\nMeasured:\n\n{tool('tables').said(statements, parts)}\n\nMore"
        blocks = {name: page.everything(name, results) for name, results in parts.items()}
        text = tool("twice").section(blocks, {"few": section}).replace("\u2212", "-")
        return text, [line.strip("| ") for line in text.splitlines() if line.startswith("| `")]

    difference = "`raag` @ 2.5, 2 steps - `cfg` @ 2.5, 2 steps | FID"
    text, rows = compared([9, 17], (51.5, 50.3))
    assert rows == [
        f"{difference} | -0.90 (few) | -1.20 (again) | 0.30 | 0.28 | no",  # 0.2 times the root of 2
        "`cfg` @ 2.5, 2 steps | FID | 50.00 (few) | 51.50 (again) | 1.50 | 1.41 | no",
        "`cfg` @ 2.5, 2 steps | saturation | 0.2000 (few) | 0.2000 (again) | 0.0000 | 0.1414 | yes",
        "`raag` @ 2.5, 2 steps | FID | 49.10 (few) | 50.30 (again) | 1.20 | 1.41 | yes",
        "`raag` @ 2.5, 2 steps | saturation | 0.3000 (few) | 0.3500 (again) | 0.0500 | 0.1414 | yes",
    ]
    assert "on one of them, which flatters it: 3 of 5 are inside." in text
    # of a third of the images: the values are too large, and the interval of the difference is twice the one here
    assert compared([9, 11], (51.5, 50.3))[1] == [f"{difference} | -0.90 (few) | -1.20 (again) | 0.30 | 0.40 | yes"]
    assert compared([8, 16], (51.5, 50.3)) == ("", [])  # a seed in common


def test_a_page_of_nothing_is_a_mistake(tool, tmp_path, capsys):
    assert tool("page").main([str(tmp_path)]) == 2
    assert "there is no results.json" in capsys.readouterr().err
