"""What each step's guidance did. Collected on the device, read when someone looks, so that sampling never waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from .basis import Basis, Combination
from .step import Scalar, Step


@dataclass(frozen=True)
class Measurement:
    """Inner products of one step, (B,) each, in the prediction space: c = cond, d = cond - uncond, g = guided."""

    cc: Tensor
    cd: Tensor
    dd: Tensor
    gd: Tensor
    update: Tensor
    """|g - c|^2"""

    @classmethod
    def of(cls, guided: Combination) -> Measurement:
        """From a combination over a basis that has "cond" and "difference"."""
        basis = guided.basis
        cond, difference = basis["cond"], basis["difference"]
        update = guided - cond
        return cls(
            cond.dot(cond), cond.dot(difference), difference.dot(difference), guided.dot(difference), update.dot(update)
        )

    @classmethod
    def of_tensors(cls, cond: Tensor, difference: Tensor, guided: Tensor) -> Measurement:
        """From tensors (B, ...), for rules that leave the span."""
        basis = Basis(cond=cond, difference=difference, guided=guided)
        return cls.of(basis["guided"])


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
    _measured: Measurement | None
    _samples: int

    @property
    def timestep(self) -> float:
        """What the model was given as its timestep."""
        return float(self._timestep)

    @property
    def sigma(self) -> float | None:
        """The scheduler's noise level, or None where it states none."""
        return None if self._sigma is None else float(self._sigma)

    @property
    def cosine(self) -> Tensor:
        """(B,): cosine between conditional and unconditional prediction."""
        m = self._read()
        return (m.cc - m.cd) / (m.cc * _uncond_square(m)).sqrt()

    @property
    def ratio(self) -> Tensor:
        """(B,): |cond - uncond| / |uncond|."""
        m = self._read()
        return (m.dd / _uncond_square(m)).sqrt()

    @property
    def difference_norm(self) -> Tensor:
        """(B,): |cond - uncond|, L2."""
        return self._read().dd.sqrt()

    @property
    def update_norm(self) -> Tensor:
        """(B,): |guided - cond|, L2: how far the rule moved the conditional prediction."""
        return self._read().update.clamp(min=0).sqrt()

    @property
    def effective_scale(self) -> Tensor:
        """(B,): <guided - uncond, d> / |d|^2, the scale at which plain guidance moves as far along d."""
        if self._measured is None:
            return torch.ones(self._samples)
        m = self._read()
        return (m.gd - m.cd + m.dd) / m.dd

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        measured = ("cosine", "ratio", "difference_norm", "update_norm", "effective_scale")
        scalars = {name: getattr(self, name) for name in ("index", "timestep", "sigma", "evaluations")}
        return scalars | {name: getattr(self, name).tolist() for name in measured}

    def _read(self) -> Measurement:
        if self._measured is None:
            nothing = torch.full((self._samples,), torch.nan)
            return Measurement(*[nothing] * 5)
        return Measurement(*(value.detach().float().cpu() for value in vars(self._measured).values()))


class Trace(Sequence[TraceRecord]):
    """The records of one call of a pipeline, in order."""

    def __init__(self) -> None:
        self._records: list[TraceRecord] = []

    def append(self, step: Step, evaluations: int, samples: int, measured: Measurement | None) -> None:
        """Add the record of one guided evaluation of `samples` images."""
        record = TraceRecord(step.index, evaluations, step.timestep, step.sigma, measured, samples)
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


def _uncond_square(m: Measurement) -> Tensor:
    return (m.cc - 2 * m.cd + m.dd).clamp(min=0)
