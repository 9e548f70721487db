"""Latent consistency: the function that is distilled, the teacher's solver, the loss. Luo et al., arXiv 2310.04378."""

import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import FrozenDict
from torch import Tensor

SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0  # as in the paper's code and in diffusers' LCMScheduler
HUBER = 1e-3
GRID = 50  # as in the paper
NOISE_SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
"""What of a scheduler's settings decides about its noise levels."""


class Consistency:
    """Boundary-scaled denoised predictions on `grid` timesteps of the teacher's noise schedule.

    Args:
        config: of the teacher's scheduler; prediction_type "epsilon", "v_prediction" or "sample".
        grid: DDIM timesteps of the solver, of which one step is skipped at a time.

    Raises:
        ValueError: another prediction type, or "epsilon" with rescale_betas_zero_snr.
    """

    def __init__(self, config: FrozenDict | dict, grid: int = GRID, device: torch.device | str = "cpu"):
        self.config = {name: config[name] for name in NOISE_SCHEDULE if config.get(name) is not None}
        self.config["prediction_type"] = config["prediction_type"]
        if config["prediction_type"] not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"a teacher that predicts {config['prediction_type']!r} cannot be distilled here")
        if config["prediction_type"] == "epsilon" and config.get("rescale_betas_zero_snr"):
            raise ValueError("a teacher that predicts noise where there is nothing else says nothing of x0 there")
        self.alphas_cumprod = DDPMScheduler.from_config(self.config).alphas_cumprod.to(device)
        self.k = len(self.alphas_cumprod) // grid
        self.timesteps = torch.arange(1, grid + 1, device=device) * self.k - 1

    def level(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) timesteps -> signal and noise, each (B, 1, 1, 1), of the forward process."""
        alpha = self.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """The forward process."""
        signal, level = self.level(timestep)
        return signal * latents + level * noise

    def denoised(self, prediction: Tensor, z: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, epsilon) that the model's prediction at z says."""
        signal, level = self.level(timestep)
        kind = self.config["prediction_type"]
        if kind == "epsilon":
            return (z - level * prediction) / signal, prediction
        x0 = prediction if kind == "sample" else signal * z - level * prediction
        return x0, (z - signal * x0) / level

    def function(self, prediction: Tensor, z: Tensor, timestep: Tensor) -> Tensor:
        """f(z, t) = c_skip z + c_out x0, the identity at t = 0."""
        t = timestep.view(-1, 1, 1, 1) * TIMESTEP_SCALING
        skip = SIGMA_DATA**2 / (t**2 + SIGMA_DATA**2)
        out = t / (t**2 + SIGMA_DATA**2).sqrt()
        return skip * z + out * self.denoised(prediction, z, timestep)[0]

    def earlier(self, timestep: Tensor) -> Tensor:
        """One step of the grid towards the image; 0 before the first."""
        return (timestep - self.k).clamp(min=0)

    def solve(self, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """DDIM: from (x0, epsilon) to the sample one step of the grid earlier."""
        signal, level = self.level(self.earlier(timestep))
        return signal * x0 + level * noise

    def few_steps(self, steps: int) -> Tensor:
        """The timesteps at which a sampler of `steps` evaluations runs, as LCMScheduler chooses them."""
        indices = torch.linspace(0, len(self.timesteps), steps + 1, device=self.timesteps.device)[:-1].floor().long()
        return self.timesteps.flip(0)[indices]


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """sqrt((a - b)^2 + h^2) - h, the mean over everything, in float32."""
    return (((a.float() - b.float()) ** 2 + HUBER**2).sqrt() - HUBER).mean()
