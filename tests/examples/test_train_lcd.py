"""Distillation: the consistency function against diffusers, the losses by hand, kill and resume, what is saved."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from diffguide.guidance import ClipReward

CONFIG = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


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
    assert all(weight.grad is None for weight in pipe.unet.parameters())


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


def test_encoded_latents_are_no_draw(trainer, tiny_sd):
    from diffusers import AutoencoderKL

    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd)
    pipe.vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=16)
    encode, images = trainer("data").encode, torch.rand(1, 3, 16, 16)
    assert torch.equal(encode(pipe, images), encode(pipe, images))


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
