"""Attaching a rule to a pipeline as it stands."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from diffguide.guidance import Trace

from .attending import Attending
from .batched import BatchedCall
from .caches import keeps_the_batch
from .calls import Call
from .decoding import Decoder
from .errors import UserError, warn_user
from .frames import caller, know
from .guiders import GuiderRule, as_rule
from .layouts import Layout
from .probe import probe
from .switching import call_parameters, chained_after_step, has_own_negative, switched_off, switched_on
from .table import check_rule, layout_of
from .two_calls import TwoCalls

_OWN = {"pipe", "layout", "guidance", "preview", "checkpointing"}
"""What can be set on a handle; the pipeline's own settings are the pipeline's."""


def guide(pipe: Any, rule: Any, *, preview: Any = None, checkpointing: bool = True) -> GuidanceCallback:
    """Attach `rule` to a diffusers pipeline; from now on `pipe(...)` is guided by it, until `remove()`.

    Args:
        pipe: a loaded diffusers pipeline; its modules, its scheduler and its other users are left as they are.
        rule: a Guidance, or a guider of diffusers; its `guidance_scale` is the one that counts. One that needs no
            unconditional prediction, such as `RewardGuidance(reward)`, gets none: the pipeline's guidance is off.
        preview: for rules that look at images: an AutoencoderTiny for the latents of this pipeline, on its device, in
            place of its decoder. Default None: the decoder itself.
        checkpointing: for rules that look at images: whether the decoder keeps no activations for the gradient and
            computes them twice, which saves most of its memory. Default True.

    Returns:
        A callable with the arguments of the pipeline. As a context manager it removes itself at the end of the block.
        Until it is removed it is also `pipe.diffguide`.

    Raises:
        ValueError: no rule can act in this pipeline, a rule is attached to it already, or `rule` is neither.

    Example::

        guided = guide(pipe, AdaptiveProjectedGuidance(guidance_scale=10.0))
        image = guided("red apple", num_inference_steps=25).images[0]
    """
    if "guider" in getattr(pipe, "components", {}):
        from .guiders_slot import SlotCallback

        if preview is not None:
            raise UserError(
                "preview is for rewards of images, which cannot act in a pipeline with a place for a guider"
            )
        return SlotCallback(pipe, rule)
    return GuidanceCallback(pipe, rule, preview, checkpointing)


class GuidanceCallback:
    """The callback that acts inside a pipeline's steps; see `guide`."""

    def __init__(self, pipe: Any, rule: Any, preview: Any = None, checkpointing: bool = True):
        attached = getattr(type(pipe), "diffguide", None)
        if isinstance(pipe, GuidanceCallback) or (attached is not None and attached.pipe is pipe):
            raise UserError(
                "this pipeline has a rule already: set `pipe.diffguide.guidance`, or `pipe.diffguide.remove()` it first"
            )
        self.pipe = pipe
        self.layout = self._layout(pipe)
        self.guidance = rule
        self.preview, self.checkpointing = preview, checkpointing
        # One that was made by the class of a guided pipeline has that class, but no rule.
        self._native = type(pipe) if attached is None else attached._native
        know(self._native.__call__)
        self._call: Call | None = None
        self._trace = Trace()
        self._warned: set[str] = set()
        self._guided = self._guided_class()
        pipe.__class__ = self._guided

    @property
    def guidance(self) -> Any:
        """The rule, as given; assign another to swap it. What the old one remembered is not carried over."""
        return self._rule.guider if isinstance(self._rule, GuiderRule) else self._rule

    @guidance.setter
    def guidance(self, rule: Any) -> None:
        rule = as_rule(rule)
        self._check(rule)
        self._rule = rule

    @property
    def trace(self) -> Trace:
        """The records of the last call, one per guided evaluation; empty before the first."""
        return self._trace

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline: its arguments, its result. UserError after `remove()`."""
        self.check_attached()
        return self.pipe(*args, **kwargs)

    def check_attached(self) -> None:
        """UserError: the rule was removed."""
        if type(self.pipe) is not self._guided:
            raise UserError("this rule was removed from its pipeline: call the pipeline, or guide() it again")

    def remove(self) -> None:
        """Detach the rule; the pipeline is bit for bit what it was. Twice does no harm."""
        if type(self.pipe) is self._guided:
            self.pipe.__class__ = self._native
            for name in ("__call__", "diffguide"):  # which refer to this handle, and keep its pipeline in memory
                delattr(self._guided, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """AttributeError: a setting of the pipeline, which would go unheard here."""
        if not name.startswith("_") and name not in _OWN:
            raise AttributeError(f"{name} is the pipeline's, if anybody's: set guided.pipe.{name}")
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} has no {name!r}: its pipeline, guided.pipe, may have it")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._native.__name__}, {self.guidance!r})"

    def __enter__(self) -> GuidanceCallback:
        self.check_attached()
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _layout(self, pipe: Any) -> Layout:
        return layout_of(pipe)

    def _check(self, rule: Any) -> None:
        check_rule(self.pipe, self.layout, rule)

    def _guided_class(self) -> type[Any]:
        """The pipeline's class under the same name, whose `__call__` runs inside this handle."""
        handle, native = self, self._native

        @functools.wraps(native.__call__)
        def call(pipe: Any, *args: Any, **kwargs: Any) -> Any:
            if pipe is not handle.pipe:  # a copy of the pipeline, which is not ours
                return native.__call__(pipe, *args, **kwargs)
            return handle._run(args, kwargs)

        def reduce(pipe: Any, protocol: Any) -> Any:  # copy, deepcopy and pickle make a plain pipeline
            return _blank, (native,), *object.__reduce_ex__(pipe, 4)[2:]

        names = {"__module__": native.__module__, "__qualname__": native.__qualname__, "__doc__": native.__doc__}
        return type(native.__name__, (native,), names | {"__call__": call, "__reduce_ex__": reduce, "diffguide": self})

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One guided call: hooks on the denoisers around the pipeline's own `__call__`, and nothing left behind."""
        if self.layout.foreign or self.layout.calls == "unknown":
            self.layout = probe(self.pipe, self._native.__call__, self.layout, self._switch_on(args, kwargs))
        arguments = self._switch_on(args, kwargs)
        layout = replace(self.layout, whole=self.layout.whole or keeps_the_batch(self.pipe, self.layout))
        if self._rule.acts_alone:
            layout = replace(layout, calls="single", per_frame=False)
        kind = TwoCalls if layout.calls == "two" else BatchedCall
        call = kind(self.pipe, self._rule, layout, arguments, Decoder(self.pipe, self.preview, self.checkpointing))
        acting: Any = call
        outer, self._call = self._call, call
        # Hooks must not be traced into a compiled denoiser; importing the compiler just to say so would take seconds.
        hidden = torch.compiler.disable if "torch._dynamo" in sys.modules else lambda hook: hook
        hooks = []
        try:
            if isinstance(self._rule, GuiderRule):
                acting = self._rule.passes(call)
            elif self._rule.acts_inside:
                acting = Attending(call)
            self._trace = call.trace
            self._trace.rule = repr(self.guidance)
            before, after = self._only_in(call, acting.before), self._only_in(call, acting.after)
            for name in self.layout.denoisers:
                denoiser = getattr(self.pipe, name, None)
                if denoiser is not None:
                    hooks.append(denoiser.register_forward_pre_hook(hidden(before), with_kwargs=True))
                    hooks.append(denoiser.register_forward_hook(hidden(after), with_kwargs=True))
            # Under inference_mode a rule could take no gradient; its pipeline takes none anyway.
            with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
                result = self._native.__call__(self.pipe, **arguments)
            call.finish()
            return result
        finally:
            acting.abandon()
            self._call = outer
            for hook in hooks:
                hook.remove()

    def _only_in(self, call: Call, hook: Callable[..., Any]) -> Callable[..., Any]:
        """`hook`, at evaluations that `call` makes; another pipeline may use the same denoiser in the meantime."""
        return lambda *args: hook(*args) if self._call is call and caller() is self.pipe else None

    def _switch_on(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the call by name, with the pipeline's own guidance on or off, as the rule needs it."""
        if self._rule.acts_alone or self.layout.calls == "single":
            arguments = switched_off(self.pipe, self._native, self.layout, args, kwargs, self._warn_once)
        else:
            scale = self._rule.guidance_scale
            core = getattr(self._rule, "core", self._rule)
            if has_own_negative(kwargs) and not core.takes_negative:
                self._warn_once(f"{type(core).__name__} was fitted without a negative prompt: less exact with one")
            arguments = switched_on(self.pipe, self._native, self.layout, scale, args, kwargs, self._warn_once)
        if not self._rule.acts_after_step:
            return arguments
        if "callback_on_step_end" not in call_parameters(self._native)[1]:
            rule = type(self._rule).__name__
            raise UserError(f"{rule} acts after each step, where {self._native.__name__} has no callback")

        def after_step(latents: torch.Tensor) -> torch.Tensor:
            assert self._call is not None
            return self._call.rule.after_step(latents, self._call.step)

        return arguments | chained_after_step(after_step, arguments)

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warn_user(message)


def _blank(cls: type[Any]) -> Any:
    return object.__new__(cls)
