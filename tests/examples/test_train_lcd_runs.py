"""Distillation as it is run: from where it begins, kill and resume, what is saved, and mistakes."""

from importlib.util import find_spec

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from diffguide.pipelines import load_pipeline
from diffguide.pipelines.embedded import MODELS


def test_a_student_that_a_kill_left_unwritten_is_written(trainer, train, tmp_path, monkeypatch):
    train(tmp_path / "whole")
    save, calls = trainer("networks").Student.save, []

    def killed(student, folder):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        save(student, folder)

    monkeypatch.setattr(trainer("networks").Student, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed")
    log = tmp_path / "killed" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 5, "lo')  # torn as well
    train(tmp_path / "killed")
    name = "pytorch_lora_weights.safetensors"
    whole, resumed = (load_file(tmp_path / run / name) for run in ("whole", "killed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_training_goes_on_with_its_own_options_alone(trainer, train, tmp_path):
    train(tmp_path / "run", "--ema", 0.9, steps=1)
    assert len(train(tmp_path / "run", "--ema", 0.9, "--log-every", 1, steps=2)) == 2
    with pytest.raises(SystemExit, match=r"holds a training with --ema 0\.9, not 0\.8"):
        train(tmp_path / "run", "--ema", 0.8, steps=3)


def test_a_killed_run_goes_on_to_the_same_weights(trainer, train, tmp_path):
    train(tmp_path / "whole")
    loop = trainer("loop")
    add = loop.Log.add

    def killed(log, step, *rest):
        add(log, step, *rest)
        if step == 3:
            raise KeyboardInterrupt

    loop.Log.add = killed
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed")
    finally:
        loop.Log.add = add
    assert [entry["step"] for entry in train(tmp_path / "killed")] == [1, 2, 3, 4]
    if find_spec("tensorboard"):
        assert list((tmp_path / "whole" / "tensorboard").glob("events.*"))
    name = "pytorch_lora_weights.safetensors"
    whole, resumed = (load_file(tmp_path / run / name) for run in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert any(value.abs().max() > 0 for key, value in whole.items() if "lora_B" in key)


def test_what_is_saved_is_the_moving_average_and_loads_as_a_pipeline(trainer, train, tiny_sd, tmp_path):
    base = UNet2DConditionModel.from_pretrained(tiny_sd, subfolder="unet")
    z, t, text = torch.randn(1, base.config.in_channels, 16, 16), torch.tensor([499]), torch.randn(1, 20, 32)
    for rank in (4, 0):
        folder = tmp_path / str(rank)
        train(folder, "--rank", rank, "--ema", 0.5)
        student = trainer("networks").Student(base, rank)
        student.load(folder)
        pipe = trainer("export").student_pipeline(str(tiny_sd), folder)
        embedding = pipe.get_guidance_scale_embedding(torch.tensor([6.5]), 256)
        theirs = pipe.unet(z, t, text, timestep_cond=embedding).sample
        torch.testing.assert_close(student(z, t, text, torch.tensor([7.5])), theirs, rtol=1e-4, atol=1e-5)
        assert not torch.equal(theirs, base(z, t, text).sample)
        image = pipe("red square", num_inference_steps=2, guidance_scale=7.5, output_type="pt").images
        assert image.shape == (1, 3, 64, 64)
        assert image.isfinite().all()
    with pytest.raises(SystemExit, match="rank"):
        trainer("networks").Student(base, 2).load(tmp_path / "4")
    layers = {"block_out_channels": (64, 128)}, {"layers_per_block": 2}
    for rank in (4, 0):
        for changed in layers:
            other = UNet2DConditionModel.from_config({**base.config, **changed})
            with pytest.raises(SystemExit, match="of another network than the teacher's"):
                trainer("networks").Student(other, rank).load(tmp_path / str(rank))
    with pytest.raises(SystemExit, match="missing"):
        student.load(tmp_path / "nothing")


def test_a_student_begins_with_the_embedded_update(trainer, train, tmp_path):
    sd, lcm = load_pipeline("emoji-sd", progress_bar=False), load_pipeline("emoji-lcm", progress_bar=False)
    student = trainer("networks").Student(sd.unet, 24)  # its update was cut to less
    student.load(MODELS / "emoji-lcm")
    z, t = torch.randn(1, 32, 8, 8), torch.tensor([499])
    text = torch.randn(1, 20, sd.text_encoder.config.hidden_size)
    expected = lcm.unet(z, t, text, timestep_cond=lcm.get_guidance_scale_embedding(torch.tensor([3.0]), 256)).sample
    for role in ("student", "target"):
        torch.testing.assert_close(student(z, t, text, torch.tensor([4.0]), role), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(sd.unet(z, t, text).sample, expected, atol=0.01)
    options = ("--teacher", "emoji-sd", "--data", "emoji", "--limit", 8, "--student", "emoji-lcm")
    assert train(tmp_path / "more", *options, "--rank", 24, steps=1)
    with pytest.raises(SystemExit, match="another rank"):
        train(tmp_path / "less", *options, steps=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "rocm", "--reward", "clip"], "needs --student"),
        (["--latent-reward"], "name it with --reward"),
        (["--data", "nothing-here"], "metadata.jsonl"),
        (["--rollout-steps", "1"], "from 2, as there is no divergence in the last step, to 50"),
        (["--student", "{out}"], "--output is the student to begin with"),
        (["--teacher", "emoji-flow"], "'emoji-flow' is a StableDiffusion3Pipeline: a teacher has a UNet"),
        (["--teacher", "no-such-teacher"], "no-such-teacher"),
    ],
)
def test_mistakes_are_named(train, tmp_path, options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        train(tmp_path / "out", *(option.format(out=tmp_path / "out") for option in options))
    assert message in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "red.png"}', "no line with a file_name and a text"),
        ('{"file_name": "red', "no line with a file_name and a text"),
        ('{"file_name": "gone.png", "text": "gone"}', "the image cannot be read"),
        ("", "names no image"),
    ],
)
def test_mistakes_in_a_listing_are_named(train, images, tmp_path, line, message):
    (images / "metadata.jsonl").write_text(line)
    with pytest.raises(SystemExit, match=message):
        train(tmp_path / "out")
