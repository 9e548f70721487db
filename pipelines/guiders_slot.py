"""Pipelines that have a place for a guider: Modular ones, HunyuanImage, HunyuanVideo 1.5, Motif-Video."""

from __future__ import annotations

import sys
from typing import Any

import torch
from diffusers.guiders import BaseGuidance
from diffusers.guiders.guider_utils import GuiderOutput
from torch import Tensor, nn

from diffguide.guidance import Guidance, Measurement, Trace

from .calls import sample_of, standstill
from .contract import conditional_by, guided_by
from .errors import UserError
from .guiders import GuiderRule, is_guider
from .guiders_repair import repaired
from .handle import GuidanceCallback
from .layouts import Layout
from .levels import Levels
from .parametrization import describe_step
from .rules import layers_of


class _Stepped:
    """A guider that knows its scheduler, and keeps a trace from the step 0 of each call on."""

    def begin_at(self, scheduler: Any) -> None:
        """Take the scheduler; nothing is remembered."""
        self.scheduler = scheduler
        self.trace, self._memory, self._levels = Trace(), dict[str, Any](), Levels()

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        super().set_state(step, num_inference_steps, timestep)  # type: ignore[misc]
        if step == 0:
            self._check_scheduler(num_inference_steps, timestep)
            self.begin_at(self.scheduler)
        self.step = describe_step(self.scheduler, timestep, step, num_inference_steps, self._memory, self._levels)

    def _check_scheduler(self, steps: int, timestep: Any) -> None:
        """UserError: the scheduler is not the one that samples. It is read from its device, once a sampling."""
        timesteps, at = torch.as_tensor(self.scheduler.timesteps).tolist(), getattr(self.scheduler, "step_index", None)
        unset = len(timesteps) == self.scheduler.config.get("num_train_timesteps") != steps
        if unset or float(timestep) not in (timesteps if at is None else timesteps[at : at + 1]):
            raise UserError(
                f"the guider was made with a {type(self.scheduler).__name__} that is not the one that samples: make it "
                "again, as_guider(rule, pipeline.scheduler), after a change of scheduler"
            )


class RuleGuider(_Stepped, BaseGuidance):
    """A rule in the place of a guider; see `as_guider`. `trace` is that of the last call."""

    _input_predictions = ["pred_cond", "pred_uncond"]  # noqa: RUF012 - diffusers wants a list

    def __init__(self, rule: Guidance, scheduler: Any):
        if not isinstance(rule, Guidance) or isinstance(rule, GuiderRule):
            raise UserError(f"a rule is an instance of a Guidance class, not {rule!r}")
        check_place(rule)
        if not hasattr(scheduler, "set_timesteps"):
            found = "None, as before load_components()" if scheduler is None else f"a {type(scheduler).__name__}"
            raise UserError(f"a rule in the place of a guider needs the scheduler that samples, not {found}")
        super().__init__()
        self.register_to_config(rule=repr(rule))
        self.rule = rule
        self.begin_at(scheduler)
        self._latents: Any = None
        self._hook: Any = None

    @property
    def num_conditions(self) -> int:
        """The most that a step may ask for: pipelines look here to know whether a negative prompt is needed at all."""
        return 2

    @property
    def is_conditional(self) -> bool:
        """Whether the pass under way is the conditional one."""
        return self._count_prepared == 1

    def prepare_inputs(self, data: Any) -> list[Any]:
        """One batch of inputs for the conditional pass, and one for the unconditional pass where the rule needs it."""
        return [self._prepare_batch(data, k, name) for k, name in enumerate(self._asked())]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: dict[str, Any]) -> list[Any]:
        """The same, from the state of a Modular pipeline."""
        fields = enumerate(self._asked())
        return [self._prepare_batch_from_block_state(input_fields, data, k, name) for k, name in fields]

    def _asked(self) -> list[str]:
        return self._input_predictions if self.rule.needs_uncond(self.step) else self._input_predictions[:1]

    def prepare_models(self, denoiser: nn.Module) -> None:
        """Before a pass: look at the model input of the conditional one."""
        self.abandon()  # an exception may have ended the last one
        super().prepare_models(denoiser)
        if self.is_conditional:
            see = torch.compiler.disable(self._see) if "torch._dynamo" in sys.modules else self._see
            self._hook = denoiser.register_forward_pre_hook(see, with_kwargs=True)

    def _see(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        sample = sample_of(args, kwargs)
        self._latents = torch.stack(sample).squeeze(2) if isinstance(sample, list) else sample  # Z-Image: single frames

    def cleanup_models(self, denoiser: nn.Module) -> None:
        """After a pass: leave nothing behind."""
        self.abandon()

    def abandon(self) -> None:
        """The same wherever an exception came from."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def __call__(self, data: list[Any]) -> GuiderOutput:
        """The rule, on the predictions that the pipeline has put into the batches of `prepare_inputs`."""
        cond, *others = [batch.noise_pred for batch in data]
        # Conditions and reference images come after the latents, as more channels or tokens.
        latents, self._latents = self._latents[tuple(slice(0, size) for size in cond.shape)], None
        uncond = others[0] if others else None
        if uncond is None:
            guided, measured = conditional_by(self.rule, cond, latents, self.step), None
        else:
            guided, measured = guided_by(self.rule, cond, uncond, latents, self.step)
        if self.step.decision == "zeroed":
            guided = standstill(cond)
        self.trace.append(self.step, len(data), len(cond), measured)
        # Qwen-Image matches the norm of `pred_cond`: under a rule that is the identity.
        return GuiderOutput(pred=guided, pred_cond=guided, pred_uncond=uncond)


class _Watched(_Stepped):
    """A guider of diffusers in its own place, with a trace."""

    def __call__(self, data: list[Any]) -> Any:
        output = super().__call__(data)  # type: ignore[misc]
        made: dict[str, Tensor] = {getattr(batch, self._identifier_key): batch.noise_pred for batch in data}  # type: ignore[attr-defined]
        cond, uncond = made["pred_cond"], made.get("pred_uncond")
        measured = None if uncond is None else Measurement.of_tensors(cond, cond - uncond, output[0])
        self.trace.append(self.step, len(data), len(cond), measured)
        return output


def in_place(rule: Guidance, scheduler: Any) -> Any:
    """What stands in the place of a guider for a rule."""
    if not isinstance(rule, GuiderRule):
        return RuleGuider(rule, scheduler)
    guider = repaired(rule.guider)
    guider.__class__ = type(type(guider).__name__, (_Watched, type(guider)), {"__module__": __name__})
    guider.begin_at(scheduler)
    return guider


def check_place(rule: Guidance) -> None:
    """UserError: the rule needs more than a guider sees, which is the model input and the predictions."""
    if rule.acts_after_step:
        raise UserError(f"{type(rule).__name__} acts after each step, where a guider has no place")
    if rule.acts_inside:
        raise UserError(f"{type(rule).__name__} acts inside the denoiser, which a guider does not reach")
    rewards = [layer.reward for layer in layers_of(rule) if hasattr(layer, "reward")]
    if any(reward.space != "latent" or reward.needs_prompts for reward in rewards):
        raise UserError(
            f"a guider sees neither images nor prompts, which the reward of {type(rule).__name__} needs: use a reward "
            "of latents alone, or take the best of n pictures by it"
        )


class SlotCallback(GuidanceCallback):
    """The handle for a pipeline with a place for a guider: ours is there during each of its calls."""

    def _layout(self, pipe: Any) -> Layout:
        if not self._guiders(pipe):
            raise UserError(f"this {type(pipe).__name__} has no guider: its guidance is distilled into the model")
        return Layout((type(pipe).__name__,), calls="guider", denoisers=())

    def _check(self, rule: Guidance) -> None:
        check_place(rule)

    @staticmethod
    def _guiders(pipe: Any) -> dict[str, Any]:
        """The guiders of a pipeline by attribute; some have a second, for another denoiser or kind of prompt."""
        return {name: part for name, part in pipe.components.items() if is_guider(part)}

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        guiders, ours = self._guiders(self.pipe), in_place(self._rule, self.pipe.scheduler)
        attributes = vars(self.pipe)  # past __setattr__, which would write the exchange into the pipeline's config
        try:
            attributes.update(dict.fromkeys(guiders, ours))
            return self._native.__call__(self.pipe, *args, **kwargs)
        finally:
            attributes.update(guiders)
            ours.abandon()
            self._trace = ours.trace
            self._trace.rule = repr(self.guidance)
