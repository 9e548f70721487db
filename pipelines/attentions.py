"""Hooks in the attentions of a denoiser, which are found by what they are made of."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .layouts import TEXT

LATENTS = "hidden_states"
PROJECTIONS = ("to_out", "out_layer", "img_attn_proj")
"""What diffusers' attentions call their output projection, that of the latents."""

NONE = "it has no attention in which its text can be told from its latents"
COMPILED = "the denoiser is compiled, and attention cannot be reached"


class AttentionHooks:
    """Hooks before and after each attention of a denoiser, and before its output projection.

    They do nothing in other threads than that which made them. combine: what goes on in place of the attention (B,
    tokens, channels) to the first text and to the second. refusal: the error for a model in which this cannot be done,
    from the reason.
    """

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor], refusal: Callable[[str], Exception]):
        self.combine, self.refusal = combine, refusal
        self.acted, self.thread = False, threading.get_ident()

    @property
    def active(self) -> bool:
        """Whether there is something to do in the evaluation under way."""
        raise NotImplementedError

    def entering(self, module: nn.Module, given: dict[str, Any]) -> dict[str, Any] | None:
        """Before an attention: its arguments by name, and other ones in their place, or None."""
        raise NotImplementedError

    def projecting(self, module: nn.Module, attention: Tensor) -> Tensor | None:
        """Before the output projection of an attention: what goes on in its place, or None."""
        raise NotImplementedError

    def leaving(self, module: nn.Module, output: Any) -> Any:
        """After an attention: what goes on in place of its output, or None."""
        raise NotImplementedError

    def hook(self, denoiser: nn.Module, undo: list[Callable[[], None]]) -> None:
        """Put the hooks into each attention of a denoiser, and into `undo` what removes them."""
        parts = list(denoiser.modules())
        if any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in parts):
            raise self.refusal(COMPILED)
        for part in parts[1:]:
            names = list(inspect.signature(part.forward).parameters)
            projection = _projection(part)
            if LATENTS not in names or not (hasattr(part, "processor") or (projection is not None and TEXT in names)):
                continue
            undo.append(part.register_forward_pre_hook(self._before(names), with_kwargs=True).remove)
            undo.append(part.register_forward_hook(self._after).remove)
            if projection is not None:
                undo.append(projection.register_forward_pre_hook(self._projecting(part)).remove)

    def _acting(self) -> bool:
        return self.active and threading.get_ident() == self.thread

    def _before(self, names: list[str]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self._acting():
                return None
            changed = self.entering(module, dict(zip(names, args)) | kwargs)
            return None if changed is None else ((), changed)

        return hook

    def _projecting(self, attention: nn.Module) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
            changed = self.projecting(attention, args[0]) if self._acting() else None
            return None if changed is None else (changed, *args[1:])

        return hook

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return self.leaving(module, output) if self._acting() else None


def _projection(part: nn.Module) -> nn.Module | None:
    """The output projection of an attention."""
    for name in PROJECTIONS:
        last = getattr(part, name, None)
        last = last[0] if isinstance(last, (nn.ModuleList, nn.Sequential)) else last
        if isinstance(last, nn.Module):
            return last
    return None
