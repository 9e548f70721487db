"""What each step's guidance did. Collected on the device, read when someone looks, so that sampling never waits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from .measurement import Measurement
from .records import Readings, TraceRecord
from .step import Step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERSION = 1


class Trace(Sequence[TraceRecord]):
    """The records of one call of a pipeline, in order.

    What they measure stays on the device, a few numbers per step and sample, until any of it is looked at; all of it is
    then read at once. rule: the rule, as text; "" where nobody says.
    """

    def __init__(self, rule: str = "") -> None:
        self.rule = rule
        self._records: list[TraceRecord] = []
        self._readings = Readings()

    def append(self, step: Step, evaluations: int, samples: int, measured: Measurement | None) -> None:
        """Add the record of one guided evaluation of `samples` images; None where the rule had one prediction only.

        evaluations: those of the pipeline, to which the rule's own, `step.extra_evaluations`, are added.
        """
        measured = measured or step.measured
        decision = step.decision
        if decision is None:
            decision = "conditional" if measured is None else "guided"
        values = {"timestep": step.timestep, "sigma": step.sigma, "decision": decision}
        values |= {} if measured is None else measured.numbers()
        values |= step.numbers
        self._readings.add(values)
        extra = step.extra_evaluations
        self._records.append(TraceRecord(step.index, evaluations + extra, samples, extra, values, self._readings))

    def count_further(self) -> None:
        """Count one more evaluation at the step of the last record: a pass that its pipeline makes besides."""
        self._records[-1] = replace(self._records[-1], evaluations=self._records[-1].evaluations + 1)

    def of_sample(self, k: int) -> Trace:
        """The trace of the k-th image alone, counted from 0; IndexError if there are not so many."""
        trace = Trace(self.rule)
        for record in self._records:
            if not 0 <= k < record.samples:
                raise IndexError(f"there is no sample {k} among {record.samples}")
            trace._records.append(replace(record, samples=1, _sample=k))
        return trace

    def to_dict(self) -> dict[str, Any]:
        """A JSON object: "version" (1), "rule", "evaluations" (per image, over the whole call), and "steps", a list.

        Each step has index, timestep, sigma, evaluations, extra_evaluations (of these, a rule's own), and lists with
        one entry per image: decision, cosine, ratio, difference_norm, update_norm, effective_scale. A step that a
        reward acted on has also reward, reward_after, move_norm, divergence and kernel. What is not finite, or was not
        measured, is None.
        """
        steps = [record.to_dict() for record in self._records]
        return {"version": VERSION, "rule": self.rule, "evaluations": self.evaluations, "steps": steps}

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as text; None is written as null. indent: spaces per level. Default None, one line."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def plot(self) -> Figure:
        """Cosine, ratio, norms and effective scale against the step, as a matplotlib Figure.

        Up to 8 images have a line each; of more, the mean and the range from the 10th to the 90th percentile are drawn.

        Raises:
            ImportError: matplotlib is not installed (the extra `plot`).
            ValueError: the trace has no records.
        """
        from .plot import plot_trace

        return plot_trace(self)

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
