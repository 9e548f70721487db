"""Attaching a rule to a pipeline as it stands."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from typing import Any

import torch

from diffguide.guidance import Guidance, Trace

from .batched import BatchedCall
from .calls import Call
from .errors import UserError
from .table import layout_of
from .two_calls import TwoCalls


def guide(pipe: Any, rule: Guidance) -> GuidanceCallback:
    """Attach `rule` to a diffusers pipeline; from now on `pipe(...)` is guided by it, until `remove()`.

    Args:
        pipe: a loaded diffusers pipeline; its modules, its scheduler and its other users are left as they are.
        rule: the rule, whose `guidance_scale` is the one that counts.

    Returns:
        A callable with the arguments of the pipeline. As a context manager it removes itself at the end of the block.

    Raises:
        ValueError: no rule can act in this pipeline, a rule is attached to it already, or `rule` is not a Guidance.

    Example::

        guided = guide(pipe, AdaptiveProjectedGuidance(guidance_scale=10.0))
        image = guided("red apple", num_inference_steps=25).images[0]
    """
    return GuidanceCallback(pipe, rule)


class GuidanceCallback:
    """The callback that acts inside a pipeline's steps; see `guide`."""

    def __init__(self, pipe: Any, rule: Guidance):
        if isinstance(pipe, GuidanceCallback) or hasattr(type(pipe), "_diffguide"):
            raise UserError("this pipeline has a rule already: set `guided.guidance`, or `guided.remove()` it first")
        self.layout = layout_of(pipe)
        self.guidance = rule
        self.pipe = pipe
        self._native = type(pipe)
        self._call: Call | None = None
        self._trace = Trace()
        self._warned: set[str] = set()
        self._guided = self._guided_class()
        pipe.__class__ = self._guided

    @property
    def guidance(self) -> Guidance:
        """The rule; assign another to swap it. What the old one remembered is not carried over."""
        return self._guidance

    @guidance.setter
    def guidance(self, rule: Guidance) -> None:
        if not isinstance(rule, Guidance):
            raise UserError(f"a rule is an instance of a Guidance class, not {rule!r}")
        self._guidance = rule

    @property
    def trace(self) -> Trace:
        """The records of the last call, one per guided evaluation; empty before the first."""
        return self._trace

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline: its arguments, its result. UserError after `remove()`."""
        if type(self.pipe) is not self._guided:
            raise UserError("this rule was removed from its pipeline: call the pipeline, or guide() it again")
        return self.pipe(*args, **kwargs)

    def remove(self) -> None:
        """Detach the rule; the pipeline is bit for bit what it was. Twice does no harm."""
        if type(self.pipe) is self._guided:
            self.pipe.__class__ = self._native

    def __enter__(self) -> GuidanceCallback:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _guided_class(self) -> type[Any]:
        """The pipeline's class under the same name, whose `__call__` runs inside this handle."""
        handle, native = self, self._native

        @functools.wraps(native.__call__)
        def call(pipe: Any, *args: Any, **kwargs: Any) -> Any:
            if pipe is not handle.pipe:  # a copy of the pipeline, which is not ours
                return native.__call__(pipe, *args, **kwargs)
            return handle._run(args, kwargs)

        names = {"__module__": native.__module__, "__qualname__": native.__qualname__, "__doc__": native.__doc__}
        return type(native.__name__, (native,), names | {"__call__": call, "_diffguide": True})

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One guided call: hooks on the denoisers around the pipeline's own `__call__`, and nothing left behind."""
        arguments = self._switch_on(args, kwargs)
        kind = TwoCalls if self.layout.calls == "two" else BatchedCall
        call = kind(self.pipe, self.guidance, self.layout)
        self._call, self._trace = call, call.trace
        # Hooks must not be traced into a compiled denoiser; importing the compiler just to say so would take seconds.
        hidden = torch.compiler.disable if "torch._dynamo" in sys.modules else lambda hook: hook
        hooks = []
        try:
            for name in self.layout.denoisers:
                denoiser = getattr(self.pipe, name, None)
                if denoiser is not None:
                    hooks.append(denoiser.register_forward_pre_hook(hidden(call.before), with_kwargs=True))
                    hooks.append(denoiser.register_forward_hook(hidden(call.after), with_kwargs=True))
            result = self._native.__call__(self.pipe, **arguments)
            call.finish()
            return result
        finally:
            call.abandon()
            self._call = None
            for hook in hooks:
                hook.remove()

    def _switch_on(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the call by name, with the pipeline's own guidance on, at whatever scale."""
        parameters = list(inspect.signature(self._native.__call__).parameters)[1:]
        if len(args) > len(parameters):
            raise TypeError(f"{self._native.__name__} takes {len(parameters)} arguments, {len(args)} were given")
        arguments = dict(zip(parameters, args)) | kwargs
        for name in self.layout.unsupported:
            if arguments.get(name) is not None:
                raise UserError(
                    f"{name} adds a prediction of its own to each step, which no rule can act on: leave it out"
                )

        scale = arguments.get(self.layout.scale)
        ours = self.guidance.guidance_scale
        if scale is not None and scale <= 1:
            raise UserError(
                f"{self.layout.scale}={scale} switches the pipeline's guidance off, so that the rule has nothing to "
                f"act on; leave it out (the rule's own scale, {ours}, is the one that counts)"
            )
        for name in (self.layout.scale, *self.layout.other_scales):
            given = arguments.get(name)
            if given is not None and given != ours:
                self._warn_once(f"{name}={given} is not used: the rule's guidance_scale={ours} counts")
        if arguments.get("guidance_rescale"):
            self._warn_once(
                "the pipeline's guidance_rescale does nothing under a rule; "
                "use ClassifierFreeGuidance(guidance_rescale=...)"
            )
        arguments[self.layout.scale] = ours if ours > 1 else 2.0
        if self.layout.negative is not None and not _has_negative(arguments):
            arguments["negative_prompt"] = _like_prompt(self.layout.negative, arguments)
        if type(self.guidance).after_step is not Guidance.after_step:
            if "callback_on_step_end" not in parameters:
                rule = type(self.guidance).__name__
                raise UserError(f"{rule} acts after each step, where {self._native.__name__} has no callback")
            self._chain_after_step(arguments)
        return arguments

    def _chain_after_step(self, arguments: dict[str, Any]) -> None:
        """Run the rule's `after_step` through the pipeline's callback, in front of the user's own."""
        users = arguments.get("callback_on_step_end")
        wanted = list(arguments.get("callback_on_step_end_tensor_inputs") or getattr(users, "tensor_inputs", []))

        def callback(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            assert self._call is not None
            tensors["latents"] = self._call.rule.after_step(tensors["latents"], self._call.step)
            returned = users(pipe, index, timestep, tensors) if users else None
            return {"latents": tensors["latents"]} | (returned or {})

        arguments["callback_on_step_end"] = callback
        arguments["callback_on_step_end_tensor_inputs"] = list(dict.fromkeys([*wanted, "latents"]))

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            level, frame = 2, sys._getframe(1)
            while frame.f_back and frame.f_code.co_filename == __file__:  # to the line that called the pipeline
                level, frame = level + 1, frame.f_back
            warnings.warn(message, stacklevel=level)


def _has_negative(arguments: dict[str, Any]) -> bool:
    return arguments.get("negative_prompt") is not None or arguments.get("negative_prompt_embeds") is not None


def _like_prompt(negative: str, arguments: dict[str, Any]) -> str | list[str]:
    """`negative` once, or once per prompt where several are given."""
    prompt, embeds = arguments.get("prompt"), arguments.get("prompt_embeds")
    if isinstance(prompt, list):
        return [negative] * len(prompt)
    return [negative] * len(embeds) if embeds is not None else negative
