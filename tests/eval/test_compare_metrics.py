"""What `compare` measures while it samples is what `evaluate` finds in the pictures that it keeps."""

import json

import pytest

from diffguide.eval import Networks, evaluate_images, load_reference
from diffguide.eval.cli import main
from diffguide.eval.comparison import compare, make_plan
from diffguide.eval.plan import Plan
from diffguide.eval.sampler import rule_of
from diffguide.eval.store import Store
from diffguide.pipelines.calibrated import calibrated_options
from diffguide.pipelines.errors import UserError


def test_features_text_reward_and_likeness_agree_with_evaluate(tiny_plan, tiny_clip, pictures, tmp_path):
    reference, clip = pictures("reference", 12, side=64), str(tiny_clip)
    metrics = ("cmmd", "clip_score", "reward", "ssim")
    plan = tiny_plan(["cfg", "apg"], [8.0], metrics=metrics, reference=str(reference), clip=clip, reward=clip)
    results = compare(plan, tmp_path / "run")
    folders = [Store(tmp_path / "run", plan).image_path(cell, 0).parent for cell in range(2)]
    prompts = [plan.prompt(k) for k in range(10)]
    networks = Networks(clip=clip, reward=clip, device="cpu")
    for cell, folder in zip(results["cells"], folders):
        found = evaluate_images(
            folder, reference, metrics, prompts=prompts, baseline=folders[0], networks=networks, batch_size=3
        )
        for name in metrics:
            assert cell["metrics"][name]["value"] == pytest.approx(found[name], rel=1e-4), name
    assert results["cells"][0]["metrics"]["ssim"]["value"] == 1
    assert results["cells"][1]["metrics"]["ssim"]["value"] < 0.999
    assert {"network clip_score", "network reward"} <= results["environment"].keys()
    assert "SSIM" in (tmp_path / "run" / "report.html").read_text()


def test_images_of_the_reference_are_converted_where_asked(tiny_plan, tiny_clip, pictures, tmp_path):
    from PIL import Image

    reference = pictures("reference", 12, side=64)
    Image.new("L", (64, 64), 90).save(reference / "gray.png")
    asked = {"metrics": ("cmmd",), "reference": str(reference), "clip": str(tiny_clip), "num_images": 2}
    with pytest.raises(UserError, match=r"1 grayscale; .*--skip-bad leaves them out, --convert takes"):
        compare(tiny_plan(["cfg"], [2.0], **asked), tmp_path / "run")
    for option, count in (("skip_bad", 12), ("convert", 13)):
        plan = tiny_plan(["cfg"], [2.0], **asked, **{option: True})
        results = compare(plan, tmp_path / option)
        assert f"--{option.replace('_', '-')}" in results["command"]
        (drawn,) = (value for key, value in results["environment"].items() if key.startswith("reference "))
        assert f"{count} images" in drawn


def test_a_reward_of_other_weights_does_not_go_on_with_a_run(tiny_plan, tiny_clip, copy_of, tmp_path):
    from safetensors.torch import load_file, save_file

    clip = copy_of(tiny_clip)
    plan = tiny_plan(["cfg"], [2.0], num_images=2, metrics=("reward",), reward=str(clip))
    compare(plan, tmp_path / "run")
    state = load_file(clip / "model.safetensors")
    state["visual_projection.weight"] *= 2
    save_file(state, clip / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="has changed since the comparison"):
        compare(plan, tmp_path / "run")


@pytest.mark.parametrize("model", ["emoji-sd", "emoji-flow"])
def test_calibrated_rules_are_those_of_the_model_and_the_steps(model, tmp_path):
    for rule in ("ag", "linear-ag"):
        fitted = calibrated_options(rule, model, 20)
        plan = make_plan(["cfg", rule], [4.0], [20], model=model, num_images=4, metrics=["clipping"])
        options = vars(rule_of(plan, plan.cells[1]))
        assert fitted
        if rule == "ag":
            assert options["threshold"] == fitted["threshold"]
    with pytest.raises(UserError, match="linear-ag has coefficients of"):
        compare(make_plan(["cfg", "linear-ag"], [4.0], [3], model=model, metrics=["clipping"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_rule_that_cannot_act_is_told_before_a_reference_is_measured(tmp_path, monkeypatch, inception):
    def never(*args):
        raise AssertionError

    monkeypatch.setattr("diffguide.eval.measures.measure_reference", never)
    plan = make_plan(["reward:reward=emoji-clip", "cfg"], [4.0], [2], model="emoji-lcm", num_images=4, metrics=["fid"])
    with pytest.raises(UserError, match="cannot act in LatentConsistencyModelPipeline"):
        compare(plan, tmp_path / "new" / "run")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_fid_of_a_real_model_is_that_of_its_saved_pictures(tmp_path, inception):
    from PIL import Image

    reference, run = tmp_path / "reference", tmp_path / "run"
    reference.mkdir()
    for index, image in enumerate(next(load_reference("emoji").batches(32)).images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(reference / f"{index:02d}.png")
    words = ["--guidance", "cfg", "apg", "--guidance-scale", "4", "--steps", "6", "--num-images", "24", "--json"]
    asked = ["--reference", str(reference), "--metrics", "fid", "clipping", "--device", "cpu", "--output", str(run)]
    assert main(["compare", *words, *asked]) == 0
    results = json.loads((run / "results.json").read_text())
    store = Store(run, Plan.from_dict(json.loads((run / "plan.json").read_text())))
    for cell, record in enumerate(results["cells"]):
        found = evaluate_images(store.image_path(cell, 0).parent, reference, ["fid", "clipping"])
        assert record["metrics"]["fid"]["value"] == pytest.approx(found["fid"], rel=1e-4)
        assert record["metrics"]["clipping"]["value"] == pytest.approx(found["clipping"], rel=1e-6)
        assert record["metrics"]["fid"]["low"] < found["fid"] < record["metrics"]["fid"]["high"]
