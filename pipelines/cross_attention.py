"""Inside the cross-attentions of a denoiser: the latents attend to a second text, and what goes on is made of both.

What a module is given for the second text is that text's embedding, where it is given that of the first as it is, as in
UNets. Else it is what the module was given when the denoiser was evaluated for the second text, which is seen once.
That it is the same at each step is seen of the first text, whose second evaluation is compared with its first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .attentions import LATENTS, NONE, AttentionHooks
from .layouts import TEXT

MASKS = ("attention_mask", "encoder_attention_mask")
OF_STEPS = (LATENTS, "temb")
"""Arguments of an attention that are the same for both texts, and others at each step."""

CHANGES = "what its attentions are given for a text changes from step to step"
OTHER = "its attention has an output of another kind"


@dataclass
class Seen:
    """What each attention of a denoiser was given, in the order of its calls.

    second: all but `OF_STEPS`, in the evaluation for the second text. first: the text, in the first of the evaluations
    for the first text, which are counted.
    """

    second: dict[nn.Module, list[dict[str, Any]]] = field(default_factory=dict)
    first: dict[nn.Module, list[Tensor]] = field(default_factory=dict)
    evaluations: int = 0


class CrossAttention(AttentionHooks):
    """Hooks that do nothing until `act` or `watch`, and again from `end` on.

    joint: whether, on the way, text and latents were seen to attend to one another in one attention, where nothing can
    be done one text after the other. `JointAttention` is for that.
    """

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor], refusal: Callable[[str], Exception]):
        super().__init__(combine, refusal)
        self.mode, self.joint = "", False
        self.seen = Seen()
        self.changes: list[Tensor] = []
        self.embeddings: tuple[Any, Any] = None, None
        self.evaluate: Callable[[], None] | None = None
        self.second: Tensor | None = None
        self.turns: Counter[nn.Module] = Counter()

    @property
    def active(self) -> bool:
        """Whether `act` or `watch` was called."""
        return bool(self.mode)

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
        seen.evaluations += 1

    def end(self) -> None:
        """The evaluation is over. The error of `refusal` if there was no attention to act on, or it cannot be done."""
        mode, self.mode = self.mode, ""
        changes, self.changes = self.changes, []
        if mode == "act" and not self.acted and not self.joint:
            raise self.refusal(NONE)
        if self.seen.evaluations == 2:
            self.seen.first.clear()
        if changes and torch.stack(changes).any():  # once in a sampling
            raise self.refusal(CHANGES)

    def entering(self, module: nn.Module, given: dict[str, Any]) -> None:
        """Attend to the second text, and keep that for when the module has attended to the first."""
        text = given.get(TEXT)
        if self.mode not in ("watch", "act") or text is None or text is given[LATENTS] or self.joint:
            return
        if self.mode == "watch":
            own = {name: value for name, value in given.items() if name not in OF_STEPS}
            self.seen.second.setdefault(module, []).append(own)
            return
        texts = self._texts(module, given)
        if texts is None:
            return
        self.mode, self.second = "second", None
        module.forward(**given | texts)
        self.mode, self.acted = "act", True
        if self.second is None:
            raise self.refusal(OTHER)

    def _texts(self, module: nn.Module, given: dict[str, Any]) -> dict[str, Any] | None:
        """What an attention is given for the second text, in place of what it is given; None: nothing."""
        if not self.seen.second and self.evaluate is not None:
            first, second = self.embeddings
            if given[TEXT] is first and all(given.get(mask) is None for mask in MASKS):
                return {TEXT: second}
            self.mode = "watch"
            self.evaluate()
            self.mode = "act"
        if module not in self.seen.second or self.joint:
            return None
        turn, second = self.turns[module], self.seen.second[module]
        self.turns[module] += 1
        self._compare(module, turn, given[TEXT])
        return second[turn % len(second)]

    def _compare(self, module: nn.Module, turn: int, text: Any) -> None:
        """Remember the first text, and whether it is another one the next time; not the images of an IP-Adapter."""
        text = text[0] if isinstance(text, tuple) else text
        if self.seen.evaluations == 1:
            self.seen.first.setdefault(module, []).append(text)
        elif self.seen.evaluations == 2:
            for before in self.seen.first.get(module, [])[turn : turn + 1]:  # none where it was skipped before
                if before.shape != text.shape:
                    raise self.refusal(CHANGES)
                self.changes.append((text - before).abs().amax() > 0.01 * before.abs().amax())

    def projecting(self, module: nn.Module, attention: Tensor) -> Tensor | None:
        """Keep the attention to the second text, and combine with it that to the first."""
        if self.mode == "second":
            self.second = attention
        elif self.mode == "act" and self.second is not None:
            second, self.second = self.second, None
            return self.combine(attention, second)
        return None

    def leaving(self, module: nn.Module, output: Any) -> None:
        """An attention that has two results attends to texts and latents at once."""
        if self.mode == "watch" and isinstance(output, tuple):
            self.joint = True
