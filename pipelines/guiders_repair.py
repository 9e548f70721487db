"""A guider of diffusers as it is meant to act: a copy of the user's, with the defects of diffusers 0.42.1 corrected.

The user's guider and diffusers' classes are left as they are: a correction is a method of a subclass made here, and the
subclass is that of the copy. Corrected:

    SmoothedEnergyGuidance          never counts its passes, so that it never perturbs one
    SkipLayer, PerturbedAttention   with their classifier-free part off the perturbed pass is the second of the step,
                                    which they leave as it is
    SkipLayer, AutoGuidance         hand (hidden, encoder) on from a skipped block that returns (encoder, hidden), as in
                                    Stable Diffusion 3, Flux and Qwen-Image; dropout fails on the pair
    SkipLayer, AutoGuidance, SEG    given layers by number make configs that their own hooks cannot read
    MagnitudeAwareGuidance          a matrix norm over three dimensions, which newer torch refuses
    FrequencyDecoupledGuidance      a level outside its interval becomes that of another level
    TangentialClassifierFreeGuidance.is_conditional reads an attribute that is not there; nothing here asks for it

A denoiser whose blocks a guider does not know (PerturbedAttentionGuidance on Stable Diffusion 3, CogVideoX, LTX) is a
UserError that says so.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from diffusers import guiders as library
from diffusers.hooks.layer_skip import TransformerBlockSkipHook
from torch import Tensor, nn

from .errors import UserError, one_line


def repaired(guider: Any) -> Any:
    """A copy of a diffusers guider that acts as it is meant to; what it remembers is the copy's own."""
    twin = copy.deepcopy(guider)
    twin._step = twin._num_inference_steps = None  # else the last step of an earlier call tells whether guidance is on
    twin._found = {}
    for name in ("skip_layer_config", "auto_guidance_config", "seg_guidance_config"):
        for config in getattr(twin, name, ()):
            config.indices = [config.indices] if isinstance(config.indices, int) else config.indices
    mixins = [mixin for name, mixin in _BY_CLASS.items() if isinstance(guider, getattr(library, name, ()))]
    twin.__class__ = type(type(guider).__name__, (*mixins, _Counted, type(guider)), {"__module__": __name__})
    return twin


class _Counted:
    """Passes are counted by what they are, in the order of `_input_predictions`, and not by how many came before.

    Between passes the denoiser is as it was, and so it is after `abandon`, wherever an exception came from.
    """

    _under_way: nn.Module | None = None
    _found: dict[nn.Module, list[str]]

    def prepare_inputs(self, *args: Any) -> list[Any]:
        return self._planned(super().prepare_inputs(*args))  # type: ignore[misc]

    def prepare_inputs_from_block_state(self, *args: Any) -> list[Any]:
        return self._planned(super().prepare_inputs_from_block_state(*args))  # type: ignore[misc]

    def _planned(self, batches: list[Any]) -> list[Any]:
        self._coming = list(batches)
        return batches

    def expect(self, batch: Any) -> None:
        """The next pass is that of `batch`, whatever the order in which they were planned."""
        self._coming = [batch]

    def prepare_models(self, denoiser: nn.Module) -> None:
        name = getattr(self._coming.pop(0), self._identifier_key)  # type: ignore[attr-defined]
        number = self._input_predictions.index(name) + 1  # type: ignore[attr-defined]
        self._count_prepared = number - 1
        self._under_way = denoiser
        if denoiser not in self._found:
            self._found |= {part: [name for name in _PLACES if name in vars(part)] for part in denoiser.modules()}
        try:
            super().prepare_models(denoiser)  # type: ignore[misc]
            if self._count_prepared != number:  # it expects somebody else to have counted
                self._count_prepared = number
                super().prepare_models(denoiser)  # type: ignore[misc]
        except (ValueError, AttributeError) as error:
            ours = type(self).__name__
            raise UserError(f"{ours} cannot act in a {type(denoiser).__name__}: {one_line(error)}") from error
        for block in denoiser.modules():
            registry = getattr(block, "_diffusers_hook", None)
            if registry is None:
                continue
            for name, hook in list(registry.hooks.items()):
                if type(hook) is TransformerBlockSkipHook:
                    registry.remove_hook(name, recurse=False)
                    registry.register_hook(_BlockSkip(hook.dropout), name)

    def cleanup_models(self, denoiser: nn.Module) -> None:
        super().cleanup_models(denoiser)  # type: ignore[misc]
        self._under_way = None

    def abandon(self) -> None:
        """End the pass under way, and take off what diffusers leaves on the parts of a denoiser between passes."""
        if self._under_way is not None:
            self.cleanup_models(self._under_way)
        for part, own in self._found.items():
            for name in _PLACES:
                if name not in own:
                    vars(part).pop(name, None)
        self._found = {}


_PLACES = ("forward", "_diffusers_hook")
"""The attributes of a module in which diffusers keeps its hooks."""


class _BlockSkip(TransformerBlockSkipHook):
    """Leaves a block out, whatever the order of the block's outputs."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        where = self._metadata.return_encoder_hidden_states_index
        if math.isclose(self.dropout, 1.0):
            output = super().new_forward(module, *args, **kwargs)
            return output if where != 0 else output[::-1]
        output = self.fn_ref.original_forward(*args, **kwargs)
        if isinstance(output, Tensor):
            return nn.functional.dropout(output, p=self.dropout)
        return tuple(nn.functional.dropout(part, p=self.dropout) for part in output)


class _OneVector:
    """Per sample as one vector, so that a norm over all of it is a norm over one dimension."""

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None) -> Any:
        flat = None if pred_uncond is None else pred_uncond.flatten(1)
        output = super().forward(pred_cond.flatten(1), flat)  # type: ignore[misc]
        return type(output)(pred=output[0].view_as(pred_cond), pred_cond=pred_cond, pred_uncond=pred_uncond)


class _EveryLevel:
    """A level outside its interval is that of the conditional prediction: guided at the neutral scale."""

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None) -> Any:
        if pred_cond.ndim != 4:
            raise UserError(f"{type(self).__name__} needs predictions (B, C, H, W), not {tuple(pred_cond.shape)}")
        given, weights = self.guidance_scales, self.parallel_weights  # type: ignore[has-type]
        rescale = self.guidance_rescale  # type: ignore[has-type]
        neutral = 0.0 if self.use_original_formulation else 1.0  # type: ignore[attr-defined]
        on = [super(_EveryLevel, self)._is_fdg_enabled_for_level(k) for k in range(len(given))]  # type: ignore[misc]
        self.guidance_scales = [scale if used else neutral for scale, used in zip(given, on)]
        self.parallel_weights = [weight if used else 1.0 for weight, used in zip(weights, on)]
        if self.guidance_rescale_space == "freq":  # type: ignore[attr-defined]
            self.guidance_rescale = [factor if used else 0.0 for factor, used in zip(rescale, on)]
        try:
            return super().forward(pred_cond, pred_uncond)  # type: ignore[misc]
        finally:
            self.guidance_scales, self.parallel_weights, self.guidance_rescale = given, weights, rescale

    def _is_fdg_enabled_for_level(self, level: int) -> bool:
        return True


_BY_CLASS = {"MagnitudeAwareGuidance": _OneVector, "FrequencyDecoupledGuidance": _EveryLevel}
