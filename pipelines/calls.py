"""What happens around one call of the denoiser: the two ways in which pipelines evaluate both predictions.

Each class holds the state of one call of a pipeline. `before` is a forward pre-hook of the denoiser, `after` its
forward hook; between them a rule sees conditional and unconditional prediction, and the pipeline gets both of its own
predictions back equal to the guided one, so that its own `uncond + s (cond - uncond)` yields exactly that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

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


@dataclass
class BatchedCall(Call):
    """Both halves in one call of the denoiser."""

    latents: Tensor | None = None
    halved: bool = False

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Note the model input; leave the unconditional half out where the rule does not need it."""
        sample = _sample(args, kwargs)
        rows = sample.shape[0]
        if not getattr(self.pipe, "do_classifier_free_guidance", True) or rows % 2:
            if self.trace:
                return None  # a cutoff callback of the user's own has ended guidance on the way
            raise UserError(self.inactive())
        half = slice(rows // 2, None) if self.layout.calls == "uncond-first" else slice(0, rows // 2)
        step = self.next_step(kwargs, args)
        self.latents = sample[half]
        self.halved = not self.rule.needs_uncond(step)
        return (_take(args, rows, half), _take(kwargs, rows, half)) if self.halved else None

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The rule, on the channels that are latents; both halves of the output become its result."""
        if self.latents is None:
            return output
        prediction = _prediction(output)
        width = min(self.latents.shape[1], prediction.shape[1])
        latents, self.latents = self.latents[:, :width], None
        if self.halved:
            guided = self.rule.guide_cond(prediction[:, :width], latents, self.step)
            self.trace.append(self.step, 1, len(guided), None)
            prediction = torch.cat([prediction, prediction])
        else:
            first, second = prediction[:, :width].chunk(2)
            cond, uncond = (second, first) if self.layout.calls == "uncond-first" else (first, second)
            guided, measured = self.rule.guide(cond, uncond, latents, self.step)
            self.trace.append(self.step, 2, len(guided), measured)
        both = torch.cat([guided, guided])
        if prediction.shape[1] > width:  # a learned variance follows the prediction
            both = torch.cat([both, prediction[:, width:]], dim=1)
        return _replace(output, both)


@dataclass
class TwoCalls(Call):
    """Two calls of the denoiser a step, the conditional one first; told apart by the identity of their text states."""

    cond: Tensor | None = None
    latents: Tensor | None = None
    text: Any = None
    skipped: bool = False
    restore: Callable[[], None] | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A conditional call opens a step; nothing to do before the second."""
        text = kwargs.get("encoder_hidden_states")
        if self.cond is not None and text is not self.text:
            return
        if self.cond is not None:
            raise UserError(self.inactive())
        self.text, self.latents = text, _sample(args, kwargs)
        self.skipped = not self.rule.needs_uncond(self.next_step(kwargs, args))

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """After the first call hand out a copy of cond; after the second overwrite that copy with the guided result."""
        prediction = _prediction(output)
        assert self.latents is not None
        latents = self.latents[:, : prediction.shape[1]]  # image-to-video appends the image's channels to them
        if self.cond is None:
            self.cond = prediction.clone()
            if self.skipped:
                self.cond.copy_(self.rule.guide_cond(prediction, latents, self.step))
                self._answer_next_call(module, output)
            return _replace(output, self.cond)
        cond, self.cond = self.cond, None
        if self.skipped:
            self.abandon()
            self.trace.append(self.step, 1, len(cond), None)
            return _replace(output, cond.clone())
        guided, measured = self.rule.guide(cond.clone(), prediction, latents, self.step)
        cond.copy_(guided)
        self.trace.append(self.step, 2, len(guided), measured)
        return _replace(output, guided)

    def finish(self) -> None:
        """Also when the last unconditional call never came."""
        if self.cond is not None:
            raise UserError(self.inactive())
        super().finish()

    def _answer_next_call(self, module: nn.Module, output: Any) -> None:
        """Let the next call of the module cost nothing. (In its pre-hook it would be too late to replace forward.)"""
        before = module.__dict__.get("forward")

        def restore() -> None:
            del module.__dict__["forward"]
            if before is not None:
                module.__dict__["forward"] = before

        module.__dict__["forward"] = lambda *args, **kwargs: output
        self.restore = restore

    def abandon(self) -> None:
        """Give the module its own forward back."""
        if self.restore is not None:
            self.restore()
            self.restore = None


def _sample(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The model input: the first argument, named `sample` in UNets and `hidden_states` in transformers."""
    if args:
        return args[0]
    return kwargs["hidden_states"] if "hidden_states" in kwargs else kwargs["sample"]


def _take(value: Any, rows: int, half: slice) -> Any:
    """`value` with every tensor in it that has `rows` rows cut down to `half` of them."""
    if isinstance(value, Tensor):
        return value[half] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, dict):
        return {key: _take(entry, rows, half) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_take(entry, rows, half) for entry in value)
    return value


def _prediction(output: Any) -> Tensor:
    """The prediction in what a denoiser returns: a tensor, a tuple or a ModelOutput."""
    return output if isinstance(output, Tensor) else output[0]


def _replace(output: Any, prediction: Tensor) -> Any:
    """`output` with another prediction in it."""
    if isinstance(output, Tensor):
        return prediction
    if isinstance(output, tuple):
        return (prediction, *output[1:])
    first, *others = output.items()
    return type(output)(**{first[0]: prediction}, **dict(others))
