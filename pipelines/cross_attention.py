"""Inside the cross-attentions of a denoiser: the latents attend to a second text, and what goes on is made of both.

What a module is given for the second text is that text's embedding, where it is given that of the first as it is, as in
UNets. Else it is what the module was given when the denoiser was evaluated for the second text, which is seen once.
"""

from __future__ import annotations

import inspect
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

TEXT = "encoder_hidden_states"
MASKS = ("attention_mask", "encoder_attention_mask")
OF_STEPS = ("hidden_states", "temb")
"""Arguments of an attention that are the same for both texts, and others at each step."""

JOINT = "its text and latents attend to one another in one attention"
OTHER = "its attention has an output of another kind"
COMPILED = "the denoiser is compiled, and attention cannot be reached"

Seen = dict[nn.Module, list[dict[str, Any]]]
"""The arguments of each attention when the denoiser was evaluated for the second text, in the order of its calls."""


class CrossAttention:
    """Hooks that do nothing until `act` or `watch`, and again from `end` on, nor ever in another thread.

    combine: what goes on in place of the attention (B, tokens, channels) to the first text and to the second, before
    the output projection. refusal: the error for a model in which this cannot be done, from the reason.
    """

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor], refusal: Callable[[str], Exception]):
        self.combine, self.refusal = combine, refusal
        self.mode, self.acted, self.thread = "", False, threading.get_ident()
        self.seen: Seen = {}
        self.embeddings: tuple[Any, Any] = None, None
        self.evaluate: Callable[[], None] | None = None
        self.second: Tensor | None = None
        self.turns: Counter[nn.Module] = Counter()

    def hook(self, denoiser: nn.Module) -> list[Callable[[], None]]:
        """Put hooks into each attention of a denoiser that can attend to texts; returns what removes them."""
        parts, undo = list(denoiser.modules()), []
        if any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in parts):
            raise self.refusal(COMPILED)
        for part in parts:
            last = getattr(part, "to_out", None)
            projection = last[0] if isinstance(last, (nn.ModuleList, nn.Sequential)) else last
            names = list(inspect.signature(part.forward).parameters)
            if isinstance(projection, nn.Module) and TEXT in names:
                undo += [
                    part.register_forward_pre_hook(self._entering(names), with_kwargs=True).remove,
                    part.register_forward_hook(self._leaving).remove,
                    projection.register_forward_pre_hook(self._projecting).remove,
                ]
        return undo

    def watch(self, seen: Seen) -> None:
        """From now on the denoiser is evaluated for the second text: keep in `seen` what its attentions are given."""
        self.mode, self.seen = "watch", seen

    def act(self, seen: Seen, embeddings: tuple[Any, Any] = (None, None), evaluate: Any = None) -> None:
        """From now on the denoiser is evaluated for the first text: act.

        embeddings: of both texts, as the denoiser is given them. evaluate: evaluates it for the second text, where that
        is needed; None: that was done before.
        """
        self.mode, self.acted, self.seen = "act", False, seen
        self.embeddings, self.evaluate = embeddings, evaluate
        self.turns.clear()

    def end(self) -> None:
        """The evaluation is over. The error of `refusal` if there was no attention to act on."""
        if self.mode == "act" and not self.acted:
            raise self.refusal(JOINT)
        self.mode = ""

    def _mode(self) -> str:
        """What there is to do: nothing where another thread evaluates a denoiser that pipelines share."""
        return self.mode if threading.get_ident() == self.thread else ""

    def _entering(self, names: list[str]) -> Callable[..., None]:
        """The forward pre-hook of an attention whose arguments have these names."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = dict(zip(names, args)) | kwargs
            if self._mode() not in ("watch", "act") or given.get(TEXT) is None:
                return
            if self.mode == "watch":
                own = {name: value for name, value in given.items() if name not in OF_STEPS}
                self.seen.setdefault(module, []).append(own)
                return
            texts = self._texts(module, given)
            if texts is None:
                return
            self.mode, self.second = "second", None
            module.forward(**given | texts)
            self.mode, self.acted = "act", True
            if self.second is None:
                raise self.refusal(OTHER)

        return hook

    def _texts(self, module: nn.Module, given: dict[str, Any]) -> dict[str, Any] | None:
        """What an attention is given for the second text, in place of what it is given; None: nothing."""
        if not self.seen and self.evaluate is not None:
            first, second = self.embeddings
            if given[TEXT] is first and all(given.get(mask) is None for mask in MASKS):
                return {TEXT: second}
            self.mode = "watch"
            self.evaluate()
            self.mode = "act"
        if module not in self.seen:
            return None
        turn = self.turns[module]
        self.turns[module] += 1
        return self.seen[module][turn % len(self.seen[module])]

    def _projecting(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """The forward pre-hook of an attention's output projection."""
        if self._mode() == "second":
            self.second = args[0]
        elif self._mode() == "act" and self.second is not None:
            second, self.second = self.second, None
            return (self.combine(args[0], second), *args[1:])
        return None

    def _leaving(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The forward hook of an attention: one that has two results attends to texts and latents at once."""
        if self._mode() == "watch" and isinstance(output, tuple):
            raise self.refusal(JOINT)
