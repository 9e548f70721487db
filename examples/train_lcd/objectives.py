"""What is minimised: latent consistency distillation, with a reward (RG-LCD) or not; reward and divergence (ROCM)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from consistency import Consistency, pseudo_huber
from networks import Student
from torch import Tensor

from diffguide.guidance.divergence import Divergence

TINY = 1e-12  # the root has a gradient at 0, where the student still is the reference
Reward = Callable[[Tensor, list[str]], Tensor]


@dataclass
class Batch:
    """latents: (B, C, h, w); text: (B, L, D); empty: (1, L, D); prompts: B texts."""

    latents: Tensor
    text: Tensor
    empty: Tensor
    prompts: list[str]


@dataclass
class Distillation:
    """Latent consistency distillation, arXiv 2310.04378, and RG-LCD, arXiv 2403.11027, with a reward.

        L = huber(f(z_t), f_target(z_t')) - reward_scale mean R(f(z_t), prompt)

    scales: of the teacher's guidance, drawn uniformly, in diffusers' convention. reward: of x0 latents and prompts.
    """

    student: Student
    function: Consistency
    scales: tuple[float, float] = (6.0, 16.0)
    reward: Reward | None = None
    reward_scale: float = 1.0

    def __call__(self, forward: Callable, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict, dict]:
        """(loss, what to log, the x0 of student and target). forward: the student as it is wrapped for training."""
        f, device, size = self.function, batch.latents.device, len(batch.latents)
        index = torch.randint(len(f.timesteps), (size,), generator=generator)
        low, high = self.scales
        scale = (low + (high - low) * torch.rand(size, generator=generator)).to(device)
        noise = torch.randn(batch.latents.shape, generator=generator).to(device)
        t = f.timesteps[index.to(device)]
        z = f.add_noise(batch.latents, noise, t)
        x0 = f.function(forward(z, t, batch.text, scale).float(), z, t)

        both = torch.cat([batch.text, batch.empty.expand_as(batch.text)])
        cond, uncond = self.student.teach(torch.cat([z, z]), torch.cat([t, t]), both).float().chunk(2)
        w = scale.view(-1, 1, 1, 1)
        guided = [u + w * (c - u) for c, u in zip(f.denoised(cond, z, t), f.denoised(uncond, z, t))]
        earlier = f.earlier(t)
        previous = f.solve(*guided, t)
        with torch.no_grad():
            predicted = self.student(previous, earlier, batch.text, scale, role="target").float()
        target = f.function(predicted, previous, earlier)
        loss = distance = pseudo_huber(x0, target)
        logged = {"distillation": distance.detach()}
        if self.reward is not None:
            reward = self.reward(x0, batch.prompts).mean()
            loss = loss - self.reward_scale * reward
            logged["reward"] = reward.detach()
        return loss, logged, {"student": x0.detach(), "target": target.detach()}


@dataclass
class RewardConsistency:
    """ROCM, arXiv 2503.06171: reward of the sample, less the divergence of each step from a frozen reference.

        max E[R(x0, prompt)] - beta sum_t D(p(z_t' | z_t), p_ref(z_t' | z_t)),   p = N(a f(z_t), s^2 I)

    Gradients go through the whole trajectory of `steps` evaluations. The last step has no noise, so no divergence.
    per_dimension: delta^2 is divided by the number of elements, without which the bounded divergences saturate.
    """

    student: Student
    function: Consistency
    reward: Reward
    divergence: Divergence
    beta: float = 1.0
    steps: int = 4
    scales: tuple[float, float] = (6.0, 16.0)
    per_dimension: bool = True

    def __call__(self, forward: Callable, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict, dict]:
        """As `Distillation`; of the batch's latents only the shape counts."""
        f, shape, device = self.function, batch.latents.shape, batch.latents.device
        low, high = self.scales
        scale = (low + (high - low) * torch.rand(shape[0], generator=generator)).to(device)
        timesteps = f.few_steps(self.steps)
        z = torch.randn(shape, generator=generator).to(device)
        divergence = torch.zeros((), device=device)
        for i, timestep in enumerate(timesteps):
            t = timestep.expand(shape[0])
            x0 = f.function(forward(z, t, batch.text, scale).float(), z, t)
            if i + 1 == len(timesteps):
                break
            # its weights are frozen, but what it says moves with z, which is the student's doing
            reference = f.function(self.student(z, t, batch.text, scale, role="reference").float(), z, t)
            signal, level = f.level(timesteps[i + 1].view(1))
            moved = (x0 - reference).flatten(1).square()
            moved = moved.mean(1) if self.per_dimension else moved.sum(1)
            squared = moved * (signal / level).square().flatten()
            divergence = divergence + self.divergence.value((squared + TINY).sqrt(), level.flatten()).mean()
            z = signal * x0 + level * torch.randn(shape, generator=generator).to(device)
        reward = self.reward(x0, batch.prompts).mean()
        logged = {"reward": reward.detach(), "divergence": divergence.detach()}
        return self.beta * divergence - reward, logged, {"student": x0.detach()}
