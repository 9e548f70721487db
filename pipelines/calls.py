"""What happens around one call of the denoiser.

A `Call` holds the state of one call of a pipeline. `before` is a forward pre-hook of the denoiser, `after` its forward
hook; between them a rule sees conditional and unconditional prediction, and the pipeline gets both of its own
predictions back equal to the guided one, so that its own `uncond + s (cond - uncond)` yields exactly that. The ways in
which pipelines evaluate both predictions are its subclasses, in `batched` and `two_calls`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from diffguide.guidance import Guidance, Step, Trace

from .errors import UserError
from .layouts import Layout
from .parametrization import describe_step

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Call:
    """One call of a pipeline: the rule, its state, its trace, and the evaluation under way."""

    pipe: Any
    rule: Guidance
    layout: Layout
    trace: Trace = field(default_factory=Trace)
    state: dict[str, Any] = field(default_factory=dict)
    step: Step = field(default_factory=Step)
    index: int = 0

    def next_step(self, kwargs: dict[str, Any], args: tuple[Any, ...]) -> Step:
        """Describe the evaluation that begins. The timestep is the scheduler's: some hand the model a scaled one."""
        scheduler = self.pipe.scheduler
        timestep = getattr(self.pipe, "_current_timestep", None)
        if timestep is None and self.layout.scaled_timestep:
            timestep = scheduler.timesteps[(scheduler.begin_index or 0) + self.index]
        elif timestep is None:
            timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        if isinstance(timestep, Tensor) and timestep.ndim:
            timestep = timestep.flatten()[0]
        total = getattr(self.pipe, "_num_timesteps", None) or len(scheduler.timesteps)
        self.step = describe_step(scheduler, timestep, self.index, total, self.state)
        self.index += 1
        return self.step

    def finish(self) -> None:
        """The pipeline returned; UserError if the rule never had two predictions to act on."""
        if not self.trace:
            raise UserError(self.inactive())

    def abandon(self) -> None:
        """Leave nothing behind on the denoiser, however the call ended."""

    def inactive(self) -> str:
        """The message for a pipeline that makes no unconditional prediction."""
        return (
            f"{type(self.pipe).__name__} made no unconditional prediction, so {type(self.rule).__name__} has nothing "
            "to act on: its guidance is off (a scale of 1 or less) or distilled into the model"
        )


def sample_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The model input: the first argument, named `sample` in UNets and `hidden_states` in transformers."""
    if args:
        return args[0]
    return kwargs["hidden_states"] if "hidden_states" in kwargs else kwargs["sample"]


def take(value: Any, rows: int, half: slice) -> Any:
    """`value` with every tensor in it that has `rows` rows cut down to `half` of them."""
    if isinstance(value, Tensor):
        return value[half] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, dict):
        return {key: take(entry, rows, half) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(take(entry, rows, half) for entry in value)
    return value


def prediction_of(output: Any) -> Tensor:
    """The prediction in what a denoiser returns: a tensor, a tuple or a ModelOutput."""
    return output if isinstance(output, Tensor) else output[0]


def replace(output: Any, prediction: Tensor) -> Any:
    """`output` with another prediction in it."""
    if isinstance(output, Tensor):
        return prediction
    if isinstance(output, tuple):
        return (prediction, *output[1:])
    first, *others = output.items()
    return type(output)(**{first[0]: prediction}, **dict(others))
