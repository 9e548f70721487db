"""What each step's guidance did. Collected on the device, read when someone looks, so that sampling never waits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from .basis import Basis, Combination, Scalar
from .step import Step
from .tensors import precise


class Measurement:
    """What a step's guided prediction says of it, in the prediction space: taken when `numbers` asks, and only then.

    guided: makes the combination, over a basis that has "cond" and "difference" (cond - uncond).
    """

    def __init__(self, guided: Callable[[], Combination]):
        self._guided = guided

    @classmethod
    def of_tensors(cls, cond: Tensor, difference: Tensor, guided: Tensor) -> Measurement:
        """From tensors (B, ...), for rules on tensors."""

        def combination() -> Combination:
            # guided - cond is a tensor of its own, since |g|^2 - 2<g,c> + |c|^2 cancels
            basis = Basis(cond=cond, difference=difference, update=precise(guided) - precise(cond))
            return basis["cond"] + basis["update"]

        return cls(combination)

    def numbers(self) -> dict[str, Tensor]:
        """Inner products, (B,) each, of c = cond, d = cond - uncond, g = guided; "update" is |g - c|^2."""
        guided = self._guided()
        basis = guided.basis
        cond, difference = basis["cond"], basis["difference"]
        update = guided - cond
        return {
            "cc": cond.dot(cond),
            "cd": cond.dot(difference),
            "dd": difference.dot(difference),
            "gd": guided.dot(difference),
            "update": update.dot(update),
        }


@dataclass(frozen=True)
class TraceRecord:
    """One guided evaluation, as `guided.trace[i]`. What is measured per sample is a tensor (B,), float32 on the CPU.

    A step whose unconditional evaluation was left out has NaN for what needs it, and an effective scale of 1.
    """

    index: int
    evaluations: int
    """Evaluations of the denoiser per image at this step: 2, or 1 where the unconditional one was left out."""
    _timestep: Scalar
    _sigma: Scalar | None
    _measured: dict[str, Tensor] | None
    _samples: int
    _decision: str | Tensor

    @property
    def timestep(self) -> float:
        """What the model was given as its timestep."""
        return float(self._timestep)

    @property
    def sigma(self) -> float | None:
        """The scheduler's noise level, or None where it states none."""
        return None if self._sigma is None else float(self._sigma)

    @property
    def decision(self) -> list[str]:
        """What was done for each sample: "guided", "conditional" (the conditional prediction alone), or a word of the
        rule's own, such as "estimated" for an unconditional prediction that was not evaluated.
        """
        if isinstance(self._decision, str):
            return [self._decision] * self._samples
        return ["conditional" if alone else "guided" for alone in self._decision.tolist()]

    @property
    def cosine(self) -> Tensor:
        """(B,): cosine between conditional and unconditional prediction."""
        m = self._read()
        return (m["cc"] - m["cd"]) / (m["cc"] * _uncond_square(m)).sqrt()

    @property
    def ratio(self) -> Tensor:
        """(B,): |cond - uncond| / |uncond|."""
        m = self._read()
        return (m["dd"] / _uncond_square(m)).sqrt()

    @property
    def difference_norm(self) -> Tensor:
        """(B,): |cond - uncond|, L2."""
        return self._read()["dd"].sqrt()

    @property
    def update_norm(self) -> Tensor:
        """(B,): |guided - cond|, L2: how far the rule moved the conditional prediction."""
        return self._read()["update"].clamp(min=0).sqrt()

    @property
    def effective_scale(self) -> Tensor:
        """(B,): <guided - uncond, d> / |d|^2, the scale at which plain guidance moves as far along d."""
        if self._measured is None:
            return torch.ones(self._samples)
        m = self._read()
        return (m["gd"] - m["cd"] + m["dd"]) / m["dd"]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON; None for what is not finite, or was not measured."""
        measured = ("cosine", "ratio", "difference_norm", "update_norm", "effective_scale")
        scalars = {name: getattr(self, name) for name in ("index", "timestep", "sigma", "evaluations", "decision")}
        return scalars | {name: [_plain(x) for x in getattr(self, name).tolist()] for name in measured}

    def _read(self) -> dict[str, Tensor]:
        if self._measured is None:
            nothing = torch.full((self._samples,), torch.nan)
            return dict.fromkeys(("cc", "cd", "dd", "gd", "update"), nothing)
        return {name: value.detach().float().cpu() for name, value in self._measured.items()}


class Trace(Sequence[TraceRecord]):
    """The records of one call of a pipeline, in order."""

    def __init__(self) -> None:
        self._records: list[TraceRecord] = []

    def append(self, step: Step, evaluations: int, samples: int, measured: Measurement | None) -> None:
        """Add the record of one guided evaluation of `samples` images; None where the rule had one prediction only."""
        measured = measured or step.measured
        decision = step.decision or ("conditional" if measured is None else "guided")
        numbers = None if measured is None else measured.numbers()
        record = TraceRecord(step.index, evaluations, step.timestep, step.sigma, numbers, samples, decision)
        self._records.append(record)

    @overload
    def __getitem__(self, index: int) -> TraceRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TraceRecord]: ...
    def __getitem__(self, index: int | slice) -> TraceRecord | Sequence[TraceRecord]:
        return self._records[index]

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[TraceRecord]:
        return iter(self._records)

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser per image, over the whole call."""
        return sum(record.evaluations for record in self._records)

    def __repr__(self) -> str:
        return f"Trace({len(self)} steps, {self.evaluations} evaluations per image)"


def _uncond_square(m: dict[str, Tensor]) -> Tensor:
    return (m["cc"] - 2 * m["cd"] + m["dd"]).clamp(min=0)


def _plain(value: float) -> float | None:
    """A number as JSON has it: None for what is not finite."""
    return value if math.isfinite(value) else None
