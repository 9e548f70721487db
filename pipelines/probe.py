"""A pipeline class whose call the table does not know: the first is begun once to see how it guides, then made.

That beginning ends at the scheduler's first step. What the scheduler is given there is a combination of predictions
that were seen before it; which ones, in which order and with which coefficients is measured. With a scale s the result
of classifier-free guidance is (1 - w) uncond + w cond, w being s or s + 1: the order follows, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from .calls import prediction_of
from .errors import UserError
from .frames import module_of_call
from .layouts import Layout
from .replacing import replaced
from .switching import call_parameters

SCALES = ("true_cfg_scale", "guidance_scale")  # where a class has both, the second is an input of its model
PROBED_AT = 3.0


class _SeenEnoughError(Exception):
    """Ends the probing call."""


@dataclass
class _Seen:
    """The predictions made, by the name of their module; what a scheduler was then given, and by which file's code."""

    made: list[tuple[str, Tensor]] = field(default_factory=list)
    scheduler: str = ""
    given: Tensor | None = None
    asked_by: str = ""


def unknown_layout(pipe: Any) -> Layout:
    """A row for a class that is yet to be probed; UserError if it has no scale that could turn guidance on."""
    name = type(pipe).__name__
    scale = None
    if isinstance(pipe, DiffusionPipeline):
        parameters = call_parameters(type(pipe))[1]
        scale = next((scale for scale in SCALES if scale in parameters), None)
    if scale is None:
        raise UserError(f"{name} is not a pipeline whose guidance is known, and its call takes no guidance_scale")
    return Layout((name,), calls="unknown", scale=scale, negative="" if scale == "true_cfg_scale" else None)


def probe(pipe: Any, call: Callable[..., Any], layout: Layout, arguments: dict[str, Any]) -> Layout:
    """The row for this pipeline, from the beginning of `call(pipe, **arguments)`, which leaves nothing changed.

    One that hands its call on to the class that it derives from has the row of that, and so has one that was seen to do
    the same. UserError if no combination of two predictions explains what its scheduler gets.
    """
    seen = _Seen()
    with _watching(pipe, seen), _randomness_kept(arguments):
        try:
            call(pipe, **(arguments | {layout.scale: PROBED_AT}))
        except _SeenEnoughError:
            if not layout.foreign:
                return _explained(pipe, layout, seen)
            known = replace(layout, foreign=False)
            if seen.asked_by.startswith("diffusers."):
                return known
            found = _explained(pipe, unknown_layout(pipe), seen)
            alike = (found.calls, found.offset, found.scheduler) == (known.calls, known.offset, known.scheduler)
            return known if alike and set(found.denoisers) <= set(known.denoisers) else found
    raise UserError(f"{type(pipe).__name__} is not a pipeline whose guidance is known, and it never asked a scheduler")


def _explained(pipe: Any, layout: Layout, seen: _Seen) -> Layout:
    """The layout in which the predictions seen combine to what the scheduler was given."""
    assert seen.given is not None
    for calls, module, first, second in _pairs(seen):
        share, rest = _coefficients(seen.given, first, second)
        total = share + rest
        if abs(abs(total) - 1) > 0.02:
            continue
        cond_first = share / total > rest / total
        weight = (share if cond_first else rest) / total
        offset = round(weight - PROBED_AT)
        if offset not in (0, 1) or abs(weight - PROBED_AT - offset) > (0.02 if first.dtype == torch.float32 else 0.2):
            continue
        if calls == "two" and not cond_first:
            raise UserError(
                f"{type(pipe).__name__} is not a pipeline whose guidance is known, and no rule can act in it: it calls "
                f"{module} for the unconditional prediction first, and for the conditional one after that"
            )
        if calls == "one":
            calls = "cond-first" if cond_first else "uncond-first"
        scheduler = getattr(pipe, seen.scheduler)
        return replace(
            layout,
            calls=calls,
            denoisers=(module,),
            scheduler=seen.scheduler,
            offset=float(offset),
            predicts="negated" if total < 0 else "",
            scaled_timestep=hasattr(scheduler, "begin_index"),
            whole=True,
        )
    rows = ", ".join(f"{module} with {len(made)} rows" for module, made in seen.made) or "no module"
    raise UserError(
        f"{type(pipe).__name__} is not a pipeline whose guidance is known; seen before its first step: {rows}, and "
        f"what its scheduler got ({len(seen.given)} rows) is not a conditional and an unconditional prediction of these"
    )


def _pairs(seen: _Seen) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """What may be two predictions of one step: the halves of the last call, or the last two calls of one module."""
    module, last = seen.made[-1] if seen.made else ("", torch.empty(0))
    if len(last) and len(last) % 2 == 0:
        first, second = last.chunk(2)
        yield "one", module, first, second
    before = [made for name, made in seen.made[:-1] if name == module]
    if before and before[-1].shape == last.shape:
        yield "two", module, before[-1], last


def _coefficients(given: Tensor, first: Tensor, second: Tensor) -> tuple[float, float]:
    """(a, b) with given = a first + b second; (0, 0) if there are none within the precision of the tensors."""
    if first.ndim != given.ndim:
        squeezed = [each.reshape(len(each), -1) for each in (given, first, second)]
        if len({each.shape[1] for each in squeezed}) > 1:
            return 0.0, 0.0
        given, first, second = squeezed
    given = given[: len(first)]
    where = tuple(slice(0, min(sizes)) for sizes in zip(given.shape, first.shape))
    target, *both = (each[where].cpu().double().flatten() for each in (given, first, second))
    basis = torch.stack(both, dim=1)
    solution = torch.linalg.lstsq(basis, target.unsqueeze(1)).solution.squeeze(1)
    exact = first.dtype == torch.float32
    allowed = 1e-3 * (both[0] - both[1]).norm() if exact else 3e-2 * target.norm()
    if (basis @ solution - target).norm() > allowed:
        return 0.0, 0.0
    share, rest = solution.tolist()
    return share, rest


@contextmanager
def _watching(pipe: Any, seen: _Seen) -> Iterator[None]:
    """Note every prediction of a module, until a scheduler is asked for its first step."""
    undo: list[Callable[[], None]] = []

    def noting(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            try:
                prediction = prediction_of(output)
            except (AttributeError, RuntimeError, TypeError, IndexError):
                return  # not what a denoiser returns
            if isinstance(prediction, Tensor) and prediction.ndim > 1 and prediction.is_floating_point():
                seen.made.append((name, prediction.detach()))

        return note

    def stopping(name: str) -> Callable[..., None]:
        def step(*args: Any, **kwargs: Any) -> None:
            seen.scheduler, seen.given = name, args[0] if args else kwargs["model_output"]
            seen.asked_by = module_of_call()
            raise _SeenEnoughError

        return step

    try:
        for name, part in pipe.components.items():
            if isinstance(part, nn.Module):
                undo.append(part.register_forward_hook(noting(name)).remove)
            elif hasattr(part, "step") and hasattr(part, "set_timesteps"):
                undo.append(replaced(part, "step", stopping(name)))
        yield
    finally:
        for each in undo:
            each()


@contextmanager
def _randomness_kept(arguments: dict[str, Any]) -> Iterator[None]:
    """Leave the caller's generators, and torch's own, where they are."""
    given = arguments.get("generator")
    generators = [g for g in (given if isinstance(given, list) else [given]) if g is not None]
    states = [generator.get_state() for generator in generators]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for generator, state in zip(generators, states):
            generator.set_state(state)
