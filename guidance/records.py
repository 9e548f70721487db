"""One record of a trace: numbers per sample that stay on the device until someone looks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MEASURED = ("cosine", "ratio", "difference_norm", "update_norm", "effective_scale")
REWARDED = ("reward", "reward_after", "move_norm", "divergence")


class Readings:
    """Numbers of a trace that wait on the device until one of them is looked at, and then come in one transfer."""

    def __init__(self) -> None:
        self._waiting: list[dict[str, Any]] = []

    def add(self, values: dict[str, Any]) -> None:
        """Numbers of one record, tensors or not; tensors become tensors on the CPU when something is read."""
        self._waiting.append(values)

    def read(self) -> None:
        """One transfer for all that waits (one from each device, where a model is spread over several)."""
        waiting, self._waiting = self._waiting, []
        found = [(values, name) for values in waiting for name, value in values.items() if isinstance(value, Tensor)]
        for device in {values[name].device for values, name in found}:
            here = [(values, name) for values, name in found if values[name].device == device]
            tensors = [values[name].detach().flatten() for values, name in here]
            read = torch.cat([tensor if tensor.is_floating_point() else tensor.float() for tensor in tensors]).cpu()
            for (values, name), part in zip(here, read.split([len(tensor) for tensor in tensors])):
                values[name] = part


@dataclass(frozen=True, eq=False)
class TraceRecord:
    """One guided evaluation, as `guided.trace[i]`. What is measured per sample is a tensor (B,), float32 on the CPU.

    A step whose unconditional evaluation was left out has NaN for what needs it, and an effective scale of 1. Norms are
    L2 over a whole sample, in units of the model's prediction.
    """

    index: int
    evaluations: int
    """Evaluations of the denoiser per image at this step: 2 (3 with one of the image alone, as in InstructPix2Pix), 1
    where the unconditional one was left out; further passes of the pipeline and `extra_evaluations` besides.
    """
    samples: int
    """B, the number of images."""
    extra_evaluations: int
    """Of `evaluations`, those that a rule made beyond the pipeline's own, such as for a reward's gradient."""
    _values: dict[str, Any] = field(repr=False)
    _readings: Readings = field(repr=False)
    _sample: int | None = field(default=None, repr=False)

    @property
    def timestep(self) -> float:
        """What the model was given as its timestep."""
        return float(self._read()["timestep"])

    @property
    def sigma(self) -> float | None:
        """The scheduler's noise level, or None where it states none."""
        sigma = self._read()["sigma"]
        return None if sigma is None else float(sigma)

    @property
    def decision(self) -> list[str]:
        """What was done for each sample: "guided", "conditional" (the conditional prediction alone), or a word of the
        rule's own, such as "estimated" for an unconditional prediction that was not evaluated.
        """
        decision = self._read()["decision"]
        if isinstance(decision, str):
            return [decision] * self.samples
        return ["conditional" if alone else "guided" for alone in self._own(decision).tolist()]

    @property
    def cosine(self) -> Tensor:
        """(B,): cosine between conditional and unconditional prediction."""
        cc, cd = self._measured("cc"), self._measured("cd")
        return (cc - cd) / (cc * self._uncond_square).sqrt()

    @property
    def ratio(self) -> Tensor:
        """(B,): |cond - uncond| / |uncond|."""
        return (self._measured("dd") / self._uncond_square).sqrt()

    @property
    def difference_norm(self) -> Tensor:
        """(B,): |cond - uncond|, L2."""
        return self._measured("dd").sqrt()

    @property
    def update_norm(self) -> Tensor:
        """(B,): |guided - cond|, L2: how far the rule moved the conditional prediction."""
        return self._measured("update").clamp(min=0).sqrt()

    @property
    def effective_scale(self) -> Tensor:
        """(B,): <guided - uncond, d> / |d|^2, the scale at which plain guidance moves as far along d."""
        if "cc" not in self._values:
            return torch.ones(self.samples)
        gd, cd, dd = self._measured("gd"), self._measured("cd"), self._measured("dd")
        return (gd - cd + dd) / dd

    @property
    def reward(self) -> Tensor | None:
        """(B,): the reward of x0 before the move. This and what follows is None where no reward acted."""
        return self._rewarded("reward")

    @property
    def reward_after(self) -> Tensor | None:
        """(B,): that after the move; NaN without line search, which is what looks at it."""
        return self._rewarded("reward_after")

    @property
    def move_norm(self) -> Tensor | None:
        """(B,): |x0' - x0|, L2, in units of x0."""
        return self._rewarded("move_norm")

    @property
    def divergence(self) -> Tensor | None:
        """(B,): between the step's Gaussians with and without the move, as the rule bounds it, its least s included; KL
        where it has no bound. NaN where the scheduler gives no Gaussian.
        """
        return self._rewarded("divergence")

    @property
    def kernel(self) -> tuple[float, float] | None:
        """(a, s) of the step's Gaussian N(a x0, s^2 I), where a reward acted and the scheduler gives one."""
        if "kernel_a" not in self._values:
            return None
        values = self._read()
        return float(values["kernel_a"]), float(values["kernel_s"])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON; None for what is not finite, or was not measured."""
        single = ("index", "timestep", "sigma", "evaluations", "extra_evaluations", "decision")
        scalars = {name: getattr(self, name) for name in single}
        names: tuple[str, ...] = MEASURED
        if "reward" in self._values:
            names, scalars["kernel"] = MEASURED + REWARDED, self.kernel and list(self.kernel)
        return scalars | {name: [_plain(x) for x in getattr(self, name).tolist()] for name in names}

    @property
    def _uncond_square(self) -> Tensor:
        return (self._measured("cc") - 2 * self._measured("cd") + self._measured("dd")).clamp(min=0)

    def _rewarded(self, name: str) -> Tensor | None:
        return self._measured(name) if "reward" in self._values else None

    def _measured(self, name: str) -> Tensor:
        values = self._read()
        return self._own(values[name]).float() if name in values else torch.full((self.samples,), torch.nan)

    def _own(self, numbers: Tensor) -> Tensor:
        """Those of one sample, where this is the record of one."""
        return numbers if self._sample is None else numbers[self._sample : self._sample + 1]

    def _read(self) -> dict[str, Any]:
        self._readings.read()
        return self._values


def _plain(value: float) -> float | None:
    """A number as JSON has it: None for what is not finite."""
    return value if math.isfinite(value) else None
