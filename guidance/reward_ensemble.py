"""Several rewards as one, harder to exploit than each. Coste et al., arXiv 2310.02743 (ICLR 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .checks import finite
from .files import read_json, write_json
from .reward import Reward, as_reward
from .tensors import precise

if TYPE_CHECKING:
    from typing_extensions import Self

COMBINATIONS = ("mean", "worst", "uncertainty")


class RewardEnsemble(Reward):
    """Rewards, each brought to a common scale z = (score - mean) / std by `calibrate`, and then combined:

        mean           mean_i z_i
        worst          min_i z_i
        uncertainty    mean_i z_i - lambda Var_i(z_i)

    Var is the unbiased variance over the rewards, as in the authors' PPO (their best-of-n has the population's); 0 for
    a single reward. The ensemble is differentiable if all its rewards are.

    Args:
        rewards: at least one, as `as_reward` takes them, all of one space and of different names.
        combine: "mean" (default), "worst" or "uncertainty".
        uncertainty_weight: lambda, not negative. Default 1, as the authors' function; their PPO uses 0.1.
        name: for messages and records.

    Raises:
        ValueError: whatever of this is not so.
    """

    def __init__(
        self,
        rewards: Sequence[Any],
        combine: str = "mean",
        uncertainty_weight: float = 1.0,
        *,
        name: str = "ensemble",
    ):
        self.rewards = [as_reward(reward) for reward in rewards]
        if not self.rewards:
            raise ValueError("an ensemble needs at least one reward")
        if combine not in COMBINATIONS:
            raise ValueError(f"combine is one of {', '.join(COMBINATIONS)}, not {combine!r}")
        self.combine = combine
        self.uncertainty_weight = finite("uncertainty_weight", uncertainty_weight)
        if self.uncertainty_weight < 0:
            raise ValueError("uncertainty_weight must not be negative")
        self.names = [reward.name for reward in self.rewards]
        spaces = sorted({reward.space for reward in self.rewards})
        if len(spaces) > 1:
            raise ValueError(f"the rewards of an ensemble look at one space, not at {' and '.join(spaces)}")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"the rewards of an ensemble need different names, not {', '.join(self.names)}")
        self.name, self.space = name, spaces[0]
        self.differentiable = all(reward.differentiable for reward in self.rewards)
        self.needs_prompts = any(reward.needs_prompts for reward in self.rewards)
        self.scales: list[tuple[float, float]] | None = None
        """Mean and standard deviation of each reward on the calibration set."""

    def score(self, images: Tensor, prompts: Sequence[str] | None) -> Tensor:
        """The combined score (B,). ValueError: the rewards are on no common scale yet."""
        z = self.scores(images, prompts)
        if self.combine == "worst":
            return z.amin(0)
        mean = z.mean(0)
        if self.combine == "mean":
            return mean
        return mean - self.uncertainty_weight * z.var(0, correction=min(1, len(z) - 1))

    def scores(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """Each reward on the common scale, (k, B). ValueError as `score`."""
        if self.scales is None:
            raise ValueError(f"the rewards of {self.name!r} are on no common scale: calibrate() or load_scales() first")
        rows = [precise(reward(images, prompts)) for reward in self.rewards]
        return torch.stack([(row - mean) / std for row, (mean, std) in zip(rows, self.scales)])

    def calibrate(self, images: Tensor, prompts: Sequence[str] | None = None, batch_size: int = 32) -> None:
        """Take mean and unbiased standard deviation of each reward over images (N, ...) and their N prompts.

        ValueError: fewer than two images, or a reward that is the same for all of them or not finite.
        """
        if len(images) < 2:
            raise ValueError(f"calibration needs two images or more, not {len(images)}")
        scales = []
        for reward in self.rewards:
            with torch.no_grad():
                parts = [
                    reward(images[i : i + batch_size], None if prompts is None else prompts[i : i + batch_size])
                    for i in range(0, len(images), batch_size)
                ]
            values = torch.cat(parts).cpu().double()
            mean, std = float(values.mean()), float(values.std())
            if not 0 < std < float("inf"):
                raise ValueError(f"reward {reward.name!r} cannot be scaled: its deviation over the images is {std}")
            scales.append((mean, std))
        self.scales = scales

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the models of the rewards that have any, as `torch.nn.Module.to`."""
        for reward in self.rewards:
            if hasattr(reward, "to"):
                reward.to(*args, **kwargs)
        return self

    def save_scales(self, path: str | Path) -> None:
        """Write what `calibrate` found to a JSON file. ValueError: it was not called."""
        if self.scales is None:
            raise ValueError(f"the rewards of {self.name!r} are on no common scale: calibrate() first")
        rows = {name: {"mean": mean, "std": std} for name, (mean, std) in zip(self.names, self.scales)}
        write_json(path, {"scales": rows})

    def load_scales(self, path: str | Path) -> None:
        """Read what `save_scales` wrote. ValueError: it is not there, is damaged, or lacks one of the rewards."""
        content = read_json(Path(path), "file of reward scales")
        try:
            rows = [content["scales"][name] for name in self.names]
            scales = [(finite("mean", row["mean"]), finite("std", row["std"])) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{str(path)!r} has no usable scale of each of {', '.join(self.names)}: {error}"
            ) from error
        if any(std <= 0 for _, std in scales):
            raise ValueError(f"{str(path)!r} has a standard deviation that is not positive")
        self.scales = scales
