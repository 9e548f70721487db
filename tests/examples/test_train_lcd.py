"""Distillation: the consistency function against diffusers, the losses by hand, kill and resume, what is saved."""

import importlib
import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from diffguide.guidance import ClipReward
from diffguide.pipelines import load_pipeline
from diffguide.pipelines.embedded import MODELS

TRAINER = Path(__file__).parents[2] / "examples" / "train_lcd"
CONFIG = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


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


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_function_and_the_solver_are_those_of_diffusers(trainer, kind):
    function = trainer("consistency").Consistency(CONFIG | {"prediction_type": kind})
    z, prediction = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    lcm = LCMScheduler(**CONFIG, prediction_type=kind)
    ddim = DDIMScheduler(**CONFIG, prediction_type=kind, set_alpha_to_one=False, clip_sample=False)
    ddim.set_timesteps(50)
    for steps in (1, 2, 4, 8):
        lcm.set_timesteps(steps)
        assert function.few_steps(steps).tolist() == lcm.timesteps.tolist()
        t = lcm.timesteps[-1].expand(2)
        theirs = lcm.step(prediction, lcm.timesteps[-1], z, return_dict=True).denoised
        torch.testing.assert_close(function.function(prediction, z, t), theirs)
    for t in (19, 499, 999):
        ours = function.solve(*function.denoised(prediction, z, torch.tensor([t, t])), torch.tensor([t, t]))
        earlier = ddim.step(prediction, t, z).prev_sample if t > 19 else None
        if earlier is not None:
            torch.testing.assert_close(ours, earlier, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="flow"):
        trainer("consistency").Consistency(CONFIG | {"prediction_type": "flow"})


def test_the_loss_is_that_of_a_loop_by_hand(trainer, tiny_sd):
    networks, objectives, consistency = map(trainer, ("networks", "objectives", "consistency"))
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd)
    function = consistency.Consistency(pipe.scheduler.config)
    torch.manual_seed(0)
    student = networks.Student(pipe.unet, 4)
    shape = (2, pipe.unet.config.in_channels, 16, 16)
    batch = objectives.Batch(torch.randn(shape), torch.randn(2, 20, 32), torch.zeros(1, 20, 32), ["a", "b"])
    reward = lambda x0, prompts: x0.flatten(1).mean(1)  # noqa: E731
    objective = objectives.Distillation(student, function, (7.5, 7.5), reward, 2.0)
    loss, logged, made = objective(student, batch, torch.Generator().manual_seed(1))

    generator = torch.Generator().manual_seed(1)
    t = function.timesteps[torch.randint(50, (2,), generator=generator)]
    torch.rand(2, generator=generator)
    noise = torch.randn(shape, generator=generator)
    alpha = function.alphas_cumprod[t].view(-1, 1, 1, 1)
    z = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise
    with torch.no_grad():
        cond = pipe.unet(z, t, batch.text).sample
        uncond = pipe.unet(z, t, batch.empty.expand(2, -1, -1)).sample
    guided = uncond + 7.5 * (cond - uncond)  # linear, so that guidance of x0 and of epsilon is guidance of either
    x0 = (z - (1 - alpha).sqrt() * guided) / alpha.sqrt()
    s = (t - 20).clamp(min=0)
    earlier = function.alphas_cumprod[s].view(-1, 1, 1, 1)
    previous = earlier.sqrt() * x0 + (1 - earlier).sqrt() * guided
    with torch.no_grad():  # at first the student is the teacher
        mine = function.function(pipe.unet(z, t, batch.text).sample, z, t)
        target = function.function(pipe.unet(previous, s, batch.text).sample, previous, s)
    huber = (((mine - target) ** 2 + 1e-6).sqrt() - 1e-3).mean()
    torch.testing.assert_close(logged["distillation"], huber, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss.detach(), huber - 2 * mine.mean(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(made["target"], target, rtol=1e-4, atol=1e-4)
    loss.backward()
    assert all(part.grad.isfinite().all() for part in student.trained)
    assert all(not weight.requires_grad for weight in pipe.unet.parameters()) or pipe.unet.conv_in.weight.grad is None


@pytest.mark.parametrize("divergence", ["kl", "js", "hellinger", "fisher"])
def test_the_divergence_is_zero_at_the_reference_and_finite_in_gradient(trainer, tiny_sd, divergence):
    networks, objectives, consistency = map(trainer, ("networks", "objectives", "consistency"))
    from diffguide.guidance.divergence import DIVERGENCES

    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd)
    torch.manual_seed(0)
    student = networks.Student(pipe.unet, 4)
    student.freeze_reference()
    shape = (2, pipe.unet.config.in_channels, 16, 16)
    batch = objectives.Batch(torch.zeros(shape), torch.randn(2, 20, 32), torch.zeros(1, 20, 32), ["a", "b"])
    function = consistency.Consistency(pipe.scheduler.config)
    reward = lambda x0, prompts: x0.flatten(1).mean(1)  # noqa: E731
    objective = objectives.RewardConsistency(student, function, reward, DIVERGENCES[divergence], steps=2)
    rewards = []
    for step in range(6):
        loss, logged, _ = objective(student, batch, torch.Generator().manual_seed(1))
        loss.backward()
        assert (logged["divergence"] < 1e-9) == (step == 0)
        rewards.append(float(logged["reward"]))
        with torch.no_grad():
            for part in student.trained:
                assert part.grad.isfinite().all()
                part.sub_(1e-3 * part.grad.sign())
                part.grad = None
    assert rewards[-1] > rewards[0]


def test_the_gradient_of_rocm_goes_through_what_the_reference_says(trainer, tiny_sd):
    """Of the divergences of a trajectory, along a direction, against finite differences."""
    networks, objectives, consistency = map(trainer, ("networks", "objectives", "consistency"))
    from diffguide.guidance.divergence import DIVERGENCES

    torch.manual_seed(0)
    student = networks.Student(UNet2DConditionModel.from_pretrained(tiny_sd, subfolder="unet"), 4)
    student.freeze_reference()
    with torch.no_grad():
        for up in student.trained[1::2]:
            up.add_(0.02 * torch.randn_like(up))
    batch = objectives.Batch(torch.zeros(2, 16, 8, 8), torch.randn(2, 20, 32), torch.zeros(1, 20, 32), ["a", "b"])
    function = consistency.Consistency(CONFIG | {"prediction_type": "epsilon"})
    nothing = lambda x0, prompts: 0 * x0.flatten(1).mean(1)  # noqa: E731
    objective = objectives.RewardConsistency(student, function, nothing, DIVERGENCES["kl"], steps=8)
    direction = [torch.randn_like(part) for part in student.trained]

    def moved(by):
        with torch.no_grad():
            for part, along in zip(student.trained, direction):
                part.add_(by * along)
        return objective(student, batch, torch.Generator().manual_seed(3))[0]

    moved(0.0).backward()
    slope = sum(float((part.grad * along).sum()) for part, along in zip(student.trained, direction))
    above = float(moved(1e-3).detach())
    assert slope == pytest.approx((above - float(moved(-2e-3).detach())) / 2e-3, rel=0.03)
    assert all(part.grad is None for part in student.reference)


@pytest.mark.parametrize("objective", ["lcd", "rocm"])
def test_everything_of_a_step_is_on_the_device(trainer, tiny_sd, objective):
    """The device is one without memory, which mixes with others as little as a GPU does."""
    networks, objectives, consistency = map(trainer, ("networks", "objectives", "consistency"))
    from diffguide.guidance.divergence import DIVERGENCES

    meta = torch.device("meta")
    student = networks.Student(UNet2DConditionModel.from_pretrained(tiny_sd, subfolder="unet"), 4).move_to(meta)
    student.freeze_reference()
    function = consistency.Consistency(CONFIG | {"prediction_type": "epsilon"}, device=meta)
    tensors = (torch.zeros(shape, device=meta) for shape in ((2, 16, 8, 8), (2, 20, 32), (1, 20, 32)))
    batch, reward = objectives.Batch(*tensors, ["a", "b"]), lambda x0, prompts: x0.flatten(1).mean(1)
    if objective == "lcd":
        objective = objectives.Distillation(student, function, reward=reward)
    else:
        objective = objectives.RewardConsistency(student, function, reward, DIVERGENCES["kl"])
    loss, logged, _ = objective(student, batch, torch.Generator().manual_seed(1))
    loss.backward()
    assert {value.device for value in (loss, *logged.values())} == {meta}


def test_a_unet_whose_file_is_older_than_the_embedding_of_the_scale(trainer, tiny_sd, tmp_path):
    shutil.copytree(tiny_sd / "unet", tmp_path / "unet")
    config = json.loads((tmp_path / "unet" / "config.json").read_text())
    del config["time_cond_proj_dim"]
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    student = trainer("networks").Student(UNet2DConditionModel.from_pretrained(tmp_path / "unet"), 4)
    assert student.unet.config.time_cond_proj_dim == 256


def test_a_noise_schedule_is_the_teachers_own(trainer):
    consistency, scheduler_like = trainer("consistency"), trainer("export").scheduler_like
    for more in ({"rescale_betas_zero_snr": True}, {"trained_betas": torch.linspace(1e-4, 0.03, 1000).tolist()}):
        config = CONFIG | {"prediction_type": "v_prediction"} | more
        theirs = DDIMScheduler.from_config(config).alphas_cumprod
        torch.testing.assert_close(consistency.Consistency(config).alphas_cumprod, theirs)
        torch.testing.assert_close(scheduler_like(config).alphas_cumprod, theirs)
    with pytest.raises(ValueError, match="says nothing of x0"):
        consistency.Consistency(CONFIG | {"prediction_type": "epsilon", "rescale_betas_zero_snr": True})


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


def test_encoded_latents_are_no_draw(trainer, tiny_sd):
    from diffusers import AutoencoderKL

    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd)
    pipe.vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=16)
    encode, images = trainer("data").encode, torch.rand(1, 3, 16, 16)
    assert torch.equal(encode(pipe, images), encode(pipe, images))


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


def test_a_compressed_update_is_the_best_one_of_its_rank(trainer):
    down, up = torch.randn(8, 12, 3, 3), torch.randn(20, 8, 1, 1)
    whole = up.flatten(1) @ down.flatten(1)
    for energy in (1.1, 0.7):
        small = trainer("export").compressed({"x.lora_A.weight": down, "x.lora_B.weight": up}, energy)
        a, b = (small[f"x.lora_{part}.weight"].float() for part in "AB")
        rank = len(a)
        assert (rank == 8) == (energy > 1)
        assert (a.shape, b.shape) == ((rank, 12, 3, 3), (20, rank, 1, 1))
        u, s, v = torch.linalg.svd(whole, full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ v[:rank]
        torch.testing.assert_close(b.flatten(1) @ a.flatten(1), best, rtol=0.01, atol=0.02)


def test_what_each_objective_minimises(train, tmp_path):
    base = ("--student", tmp_path / "lcm", "--reward", "clip")
    assert "reward" not in train(tmp_path / "lcm")[0]
    direct = train(tmp_path / "direct", *base)[0]
    assert direct["loss"] == pytest.approx(direct["distillation"] - direct["reward"], abs=1e-5)
    proxy = train(tmp_path / "proxy", *base, "--latent-reward", "--pretrain-steps", 2)[-1]
    expected = proxy["distillation"] - proxy["reward"] + proxy["imitation"]
    assert proxy["imitation"] > 0
    assert proxy["loss"] == pytest.approx(expected, abs=1e-5)
    latent = ClipReward.from_pretrained(tmp_path / "proxy" / "latent_reward")
    assert (latent.space, latent(torch.zeros(1, 16, 8, 8), ["red"]).shape) == ("latent", (1,))
    rocm = train(tmp_path / "rocm", *base, "--objective", "rocm", "--divergence", "js")[0]
    assert rocm["divergence"] < 1e-9
    assert rocm["loss"] == pytest.approx(-rocm["reward"], abs=1e-5)


def test_the_proxy_is_taught_without_a_gradient_into_the_student(trainer, tiny_sd):
    module = trainer("latent_reward")
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd)
    torch.manual_seed(0)
    proxy = module.LatentReward(pipe.text_encoder, pipe.tokenizer, 4, 16, 4, width=32)
    latents = {name: torch.randn(4, 4, 16, 16, requires_grad=True) for name in ("student", "target", "real")}
    prompts = ["red", "green", "blue", "white"]
    better = {"student": 0.0, "target": 0.1, "real": 0.2}
    expert = lambda x, prompts: torch.full((4,), better[next(n for n, v in latents.items() if v is x)])  # noqa: E731
    optimizer = torch.optim.Adam([p for p in proxy.parameters() if p.requires_grad], 1e-3)
    teach = trainer("train_lcd").teach
    losses = []
    for _ in range(30):
        loss = teach(proxy, expert, latents, prompts, 0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    own = {name: proxy(value, prompts).mean().item() for name, value in latents.items()}
    assert own["student"] < own["target"] < own["real"]


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
