"""Inside the attentions in which a text and the latents attend to one another, as in SD3, Flux and Qwen-Image.

A text is changed by the latents from block to block, so that two texts need two streams of it. They are the two halves
of a batch, which share one stream of latents: each attention is given the latents of the first half in both, and what
goes on to the latents is made of what both halves found. So do the authors of normalized attention guidance (their
attention processors for SD3 and Flux), but for what a pooled embedding of the second text does there to the second
half's latents in blocks of one stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .attentions import LATENTS, NONE, AttentionHooks
from .layouts import TEXT


class JointAttention(AttentionHooks):
    """Hooks that do nothing until `act`, and again from `end` on.

    In a block of one stream, the sequence is that of the text and then that of the latents, in blocks of two they come
    apart. A sequence of another length, as in a text's own refiner, or of latents alone, is left as it is.
    latents_first: where there are no blocks of two streams, as in the `Layout`.
    """

    def __init__(
        self,
        combine: Callable[[Tensor, Tensor], Tensor],
        refusal: Callable[[str], Exception],
        latents_first: tuple[str, str] | None = None,
    ):
        super().__init__(combine, refusal)
        self.parts = latents_first
        self.alone: set[nn.Module] = set()
        self.together: set[nn.Module] = set()
        self.first: int | None = None
        self.text, self.latents = 0, 0
        self.inside: nn.Module | None = None

    @property
    def active(self) -> bool:
        """Whether `act` was called."""
        return self.first is not None

    def hook(self, denoiser: nn.Module, undo: list[Callable[[], None]]) -> None:
        """Put the hooks into each attention of a denoiser, and into `undo` what removes them."""
        if self.parts is not None:
            alone, together = (set(denoiser.get_submodule(part).modules()) for part in self.parts)
            self.alone |= alone
            self.together |= together
        super().hook(denoiser, undo)

    def act(self, first: int) -> None:
        """From now on the denoiser is evaluated for both texts; first: the half, 0 or 1, of the first text."""
        self.first, self.text, self.latents, self.acted = first, 0, 0, False

    def end(self) -> int:
        """The evaluation is over; returns `first`. The error of `refusal` if there was no attention to act on."""
        first, self.first, self.inside = self.first, None, None
        if first is None or not self.acted:
            raise self.refusal(NONE)
        return first

    def entering(self, module: nn.Module, given: dict[str, Any]) -> dict[str, Any] | None:
        """The latents of the first half are those of the second."""
        text, tensor = given.get(TEXT), given[LATENTS]
        if text is not None or module in self.alone:
            self.text, self.latents = 0 if text is None else text.shape[1], tensor.shape[1]
        where = self._where(module, tensor)
        if text is None and where == slice(0, None):
            where = None  # latents that attend to themselves alone, as in the second attention of SD3.5's blocks
        self.inside = None if where is None else module
        return None if where is None else given | {LATENTS: self._with(tensor, where, lambda first, _: first)}

    def projecting(self, module: nn.Module, attention: Tensor) -> Tensor | None:
        """What goes on to the latents is made before the output projection."""
        where = self._where(module, attention)
        if module is not self.inside or where is None:
            return None
        self.inside, self.acted = None, True
        return self._with(attention, where, self.combine, getattr(module, "inner_dim", None))

    def leaving(self, module: nn.Module, output: Any) -> Any:
        """Where the block has the output projection, what goes on is made here."""
        if module is not self.inside:
            return None
        self.inside = None
        attention = output[0] if isinstance(output, tuple) else output
        where = self._where(module, attention)
        if where is None:
            return None
        self.acted = True
        changed = self._with(attention, where, self.combine)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def _where(self, module: nn.Module, tensor: Tensor) -> slice | None:
        """Where the latents are in a sequence (2B, tokens, channels); None: nowhere."""
        if self.parts is not None:
            return slice(self.latents) if module in self.together else None
        begins = {self.latents: 0, self.text + self.latents: self.text} if self.latents else {}
        begin = begins.get(tensor.shape[1])
        return None if begin is None else slice(begin, None)

    def _with(
        self, tensor: Tensor, where: slice, result: Callable[[Tensor, Tensor], Tensor], channels: int | None = None
    ) -> Tensor:
        """The result for the latents of both halves (B, tokens, channels), as the latents of both halves."""
        assert self.first is not None
        parts = [half[:, where, :channels] for half in tensor.chunk(2)]
        changed, whole = result(parts[self.first], parts[1 - self.first]), tensor.clone()
        rows = len(tensor) // 2
        whole[:rows, where, :channels] = changed
        whole[rows:, where, :channels] = changed
        return whole
