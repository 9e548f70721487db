"""What happens around one call of the denoiser.

A `Call` holds the state of one call of a pipeline. `before` is a forward pre-hook of the denoiser, `after` its forward
hook; between them a rule sees conditional and unconditional prediction, and the pipeline gets both of its own
predictions back equal to the guided one, so that its own `uncond + s (cond - uncond)` yields exactly that. The ways in
which pipelines evaluate both predictions are its subclasses, in `batched` and `two_calls`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffguide.guidance import Guidance, Step, Trace

from .decoding import Decoder
from .errors import UserError
from .layouts import Layout
from .levels import Levels
from .parametrization import describe_step, restated
from .places import Places
from .regions import watch_latents

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Call:
    """One call of a pipeline: its arguments, the rule, its state, its trace, and the evaluation under way.

    decoder: what makes images of x0; None: nothing does. levels: the scheduler's tables. known: what `once` knows.
    count: how many tokens are latents, where `Layout.tokens` says that some are. places: of the evaluations.
    """

    pipe: Any
    rule: Guidance
    layout: Layout
    arguments: dict[str, Any] = field(default_factory=dict)
    decoder: Decoder | None = None
    trace: Trace = field(default_factory=Trace)
    state: dict[str, Any] = field(default_factory=dict)
    step: Step = field(default_factory=Step)
    undo: list[Callable[[], None]] = field(default_factory=list)
    levels: Levels = field(default_factory=Levels)
    known: dict[Any, Any] = field(default_factory=dict)
    count: int | None = None
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        self.places = Places(self.pipe, self.layout, self.arguments)
        if self.layout.tokens:
            self.undo.append(watch_latents(self.pipe, lambda count: setattr(self, "count", count)))

    def once(self, question: Any, answer: Callable[[], Any]) -> Any:
        """The answer to a question that has the same one all through the call: looked up once, not at each step."""
        if question not in self.known:
            self.known[question] = answer()
        return self.known[question]

    def next_step(
        self,
        kwargs: dict[str, Any],
        args: tuple[Any, ...],
        rows: int,
        evaluate: Callable[[Tensor], Tensor] | None = None,
    ) -> Step:
        """Describe the evaluation of `rows` images that begins, which `evaluate` can make once more."""
        timestep, index, total = self.places.next(kwargs, args)
        if index == 0:
            self.state = {}
        step = describe_step(self.places.scheduler, timestep, index, total, self.state, self.levels)
        step = restated(step, self.layout.predicts)
        if self.layout.frame_timesteps and (frames := kwargs["timestep"].flatten()).ne(frames[-1]).any():
            # The pipeline itself has read these from the device; x0 would need a sigma per frame.
            step = replace(step, sigma=None, denoised=None, noise=None, kernel=None)
        step.model = self.once("model", lambda: model_name(self.pipe))
        step.prompts = self.once(("prompts", rows), lambda: self._prompts(rows))
        step.evaluate, step.decode = evaluate, None
        if self.decoder is not None and not self.layout.streams:
            sample, decoder = stacked(sample_of(args, kwargs)), self.decoder
            step.decode = decoder if self.once(("decode", sample.shape), lambda: decoder.takes(sample)) else None
        self.step = step
        return step

    def _prompts(self, rows: int) -> tuple[str, ...]:
        """The text of each row: every pipeline has the images of one prompt next to each other."""
        given = self.arguments.get("prompt")
        texts = [given] if isinstance(given, str) else given if isinstance(given, (list, tuple)) else []
        if not texts or rows % len(texts) or not all(isinstance(text, str) for text in texts):
            return ()
        return tuple(text for text in texts for _ in range(rows // len(texts)))

    def finish(self) -> None:
        """The pipeline returned; UserError if the rule never had two predictions to act on."""
        if not self.trace and self.places.index == 0:
            raise UserError(
                f"{type(self.pipe).__name__} sampled no step: its denoiser was not called. A strength that leaves no "
                "step has to be larger, or num_inference_steps has"
            )
        if not self.trace:
            raise UserError(self.inactive())

    def abandon(self) -> None:
        """Leave nothing behind on the pipeline and its parts, however the call ended."""
        if self.decoder is not None:
            self.decoder.close()
        while self.undo:
            self.undo.pop()()
        self.step = Step()  # which refers to this call: tensors would wait for the collector of such circles

    def inactive(self) -> str:
        """The message for a pipeline that makes no unconditional prediction."""
        return (
            f"{type(self.pipe).__name__} made no unconditional prediction, so {type(self.rule).__name__} has nothing "
            "to act on: its guidance is off (a scale of 1 or less) or distilled into the model"
        )


def model_name(pipe: Any) -> str:
    """The last part of the name that a pipeline was loaded by; "" for one that was put together in memory."""
    return Path(getattr(pipe, "name_or_path", None) or "").name


def sample_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The model input: the first argument, named `sample` in UNets and `hidden_states` in transformers."""
    if args:
        return args[0]
    return next(kwargs[name] for name in ("hidden_states", "sample", "x") if name in kwargs)


def argument_names(module: nn.Module, args: tuple[Any, ...]) -> list[str]:
    """The names of arguments given to a module by position."""
    return list(inspect.signature(module.forward).parameters)[: len(args)]


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a module by name."""
    return dict(zip(argument_names(module, args), args)) | kwargs if args else kwargs


def fills_cache(kwargs: dict[str, Any]) -> bool:
    """Whether this call of GLM-Image's denoiser only writes reference images to a cache; its prediction is dropped."""
    caches = kwargs.get("kv_caches")
    return caches is not None and caches[0].mode == "write"


def predictions_of(output: Any) -> list[Any]:
    """The predictions in what a denoiser returns, a tensor, a tuple or a ModelOutput; lists of tensors are stacked."""
    whole = (output,) if isinstance(output, Tensor) else output if isinstance(output, tuple) else output.to_tuple()
    return [stacked(entry) for entry in whole]


def standstill(cond: Tensor) -> Tensor:
    """What a pipeline gets for a velocity of zero: some divide by the norm or the deviation of what they get."""
    return cond * torch.finfo(cond.dtype).eps ** 2


def stacked(entry: Any) -> Any:
    """A list with a tensor per row as one tensor; where an entry is itself a list, its last tensor is the latents."""
    if not isinstance(entry, list):
        return entry
    return torch.stack([row[-1] if isinstance(row, list) else row for row in entry])


def prediction_of(output: Any) -> Tensor:
    """The first prediction in what a denoiser returns."""
    return predictions_of(output)[0]


def with_predictions(output: Any, predictions: list[Tensor]) -> Any:
    """`output` with other predictions in it."""
    if isinstance(output, Tensor):
        return predictions[0]
    before = output if isinstance(output, tuple) else output.to_tuple()
    listed = [list(new.unbind()) if isinstance(old, list) else new for old, new in zip(before, predictions)]
    if isinstance(output, tuple):
        return (*listed, *output[len(listed) :])
    return type(output)(**(dict(output) | dict(zip(output, listed))))
