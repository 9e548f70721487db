"""Two calls of the denoiser a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .calls import Call, prediction_of, replace, sample_of
from .errors import UserError


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
        self.text, self.latents = text, sample_of(args, kwargs)
        self.skipped = not self.rule.needs_uncond(self.next_step(kwargs, args))

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """After the first call hand out a copy of cond; after the second overwrite that copy with the guided result."""
        prediction = prediction_of(output)
        assert self.latents is not None
        latents = self.latents[:, : prediction.shape[1]]  # image-to-video appends the image's channels to them
        if self.cond is None:
            self.cond = prediction.clone()
            if self.skipped:
                self.cond.copy_(self.rule.guide_cond(prediction, latents, self.step))
                self._answer_next_call(module, output)
            return replace(output, self.cond)
        cond, self.cond = self.cond, None
        if self.skipped:
            self.abandon()
            self.trace.append(self.step, 1, len(cond), None)
            return replace(output, cond.clone())
        guided, measured = self.rule.guide(cond.clone(), prediction, latents, self.step)
        cond.copy_(guided)
        self.trace.append(self.step, 2, len(guided), measured)
        return replace(output, guided)

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
