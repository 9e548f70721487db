"""Both predictions in one call of the denoiser, as two halves of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .calls import Arguments, Call, prediction_of, replace, sample_of, take
from .errors import UserError


@dataclass
class BatchedCall(Call):
    """Both halves in one call of the denoiser."""

    latents: Tensor | None = None
    halved: bool = False

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Note the model input; leave the unconditional half out where the rule does not need it."""
        sample = sample_of(args, kwargs)
        rows = sample.shape[0]
        if not getattr(self.pipe, "do_classifier_free_guidance", True) or rows % 2:
            if self.trace:
                return None  # a cutoff callback of the user's own has ended guidance on the way
            raise UserError(self.inactive())
        half = slice(rows // 2, None) if self.layout.calls == "uncond-first" else slice(0, rows // 2)
        step = self.next_step(kwargs, args)
        self.latents = sample[half]
        self.halved = not self.rule.needs_uncond(step)
        return (take(args, rows, half), take(kwargs, rows, half)) if self.halved else None

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The rule, on the channels that are latents; both halves of the output become its result."""
        if self.latents is None:
            return output
        prediction = prediction_of(output)
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
        return replace(output, both)
