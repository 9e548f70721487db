"""The passes of a diffusers guider, made around the calls of the denoiser that a classic pipeline makes itself."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from diffusers.guiders import BaseGuidance
from torch import Tensor, nn

from diffguide.guidance import Guidance, Measurement, Step, Trace

from .batched import BatchedCall
from .calls import Arguments, argument_names, prediction_of, standstill
from .errors import UserError
from .guiders_repair import repaired
from .halves import Halves
from .regions import inside
from .two_calls import TwoCalls

SIDES = ("cond", "uncond")


class Passes:
    """Stands in for a `Call` between the hooks of the denoiser and drives a guider as a Modular pipeline would.

    The conditional and the unconditional prediction are those that the pipeline makes; any other pass that the guider
    asks for is made with the arguments of the conditional one. A guider that changes the denoiser for some of its
    passes gets each of them in a call of its own.
    """

    def __init__(self, call: BatchedCall | TwoCalls, guider: Any):
        self.call: Any = call
        self.guider = repaired(guider)
        self.apart = type(guider).prepare_models is not BaseGuidance.prepare_models
        self.batched = isinstance(call, BatchedCall)
        kind = type(call.pipe).__name__
        if call.layout.streams:
            raise UserError(f"a guider acts on one prediction, and {kind} makes several: use a rule of diffguide's own")
        if isinstance(call, BatchedCall) and self.apart and (call.layout.whole or len(call.order) > 2):
            raise UserError(f"{type(guider).__name__} needs passes of its own, and the batch of {kind} cannot be cut")
        self.batches: list[Any] = []
        self.given: dict[str, Arguments] = {}
        self.measured: Measurement | None = None
        call.rule, call.trace = _Driven(self), _Counted(self)

    def begin(self, step: Step) -> bool:
        """Ask the guider for the passes of this step; whether the pipeline has to make the unconditional one."""
        self.guider.set_state(step=step.index, num_inference_steps=step.total, timestep=step.timestep)
        try:
            self.batches = self.guider.prepare_inputs({"side": SIDES})
        except IndexError as error:
            name = type(self.guider).__name__
            raise UserError(
                f"{name} asks for more conditions than the two of {type(self.call.pipe).__name__}"
            ) from error
        asked = "uncond" in [batch.side for batch in self.batches]
        return asked and not (self.batched and self.apart)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """The forward pre-hook: that of the call, then what the guider does to the denoiser for this pass."""
        step = self.call.step
        changed = self.call.before(module, args, kwargs)
        opens = self.call.step is not step
        self.module = module
        if opens or not self.batched:
            self.given["cond" if opens else "uncond"] = args, kwargs
        self.own = self._made_by_pipeline(opens)
        for batch in self.own:
            self._prepare(batch)
        return changed

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The forward hook: the denoiser as it was, then the hook of the call, in which `combine` runs."""
        if self.own:
            self.guider.cleanup_models(module)
        return self.call.after(module, args, kwargs, output)

    def combine(self, cond: Tensor, uncond: Tensor | None) -> Tensor:
        """The guided prediction, from the predictions of the pipeline and the passes that are still missing."""
        made = {"cond": cond, "uncond": uncond}
        for batch in self.batches:
            prediction = made.pop(batch.side, None)
            if prediction is None:
                prediction = self._evaluate(batch, cond)
            if batch.side == "uncond":
                uncond = prediction
            batch.noise_pred = prediction
        guided = self.guider(self.batches)[0].to(cond.dtype)
        if getattr(self.guider, "zero_init_steps", 0) > self.call.step.index:
            guided = standstill(cond)
        self.measured = None if uncond is None else Measurement.of_tensors(cond, cond - uncond, guided)
        return guided

    def abandon(self) -> None:
        """Leave nothing behind: neither the call does, nor the guider."""
        self.call.abandon()
        self.guider.abandon()

    def _made_by_pipeline(self, opens: bool) -> list[Any]:
        """The passes for which this call of the denoiser stands."""
        if self.batched:
            sides = () if not opens else SIDES[:1] if self.apart else SIDES
        else:
            sides = SIDES[:1] if opens else SIDES[1:] if self.call.second and not self.call.ignored else ()
        first = {batch.side: batch for batch in reversed(self.batches)}
        return [first[side] for side in sides if side in first]

    def _prepare(self, batch: Any) -> None:
        self.guider.expect(batch)
        self.guider.prepare_models(self.module)

    def _evaluate(self, batch: Any, like: Tensor) -> Tensor:
        """One more pass, past the hooks of the denoiser, and in its own context where diffusers caches predictions."""
        args, kwargs = self._arguments(batch.side)
        name = getattr(batch, self.guider._identifier_key)
        module: Any = self.module
        context = module.cache_context(name) if hasattr(module, "cache_context") else nullcontext()
        self._prepare(batch)
        with context:
            prediction = prediction_of(self.module.forward(*args, **kwargs))
        self.guider.cleanup_models(self.module)
        where = self.call.where if self.batched else self.call.where[0]
        return inside(prediction, where).to(like.dtype)

    def _arguments(self, side: str) -> Arguments:
        """What the pipeline gives the denoiser for one of the two predictions."""
        if not self.batched:
            return self.given[side]
        args, kwargs = self.given["cond"]
        half = Halves(self.call.layout, self.call.rows, self.call.order.index(side))
        return half.cut(argument_names(self.module, args), args, kwargs)


class _Driven(Guidance):
    """What the call takes for the rule."""

    def __init__(self, passes: Passes):
        self._passes = passes

    def needs_uncond(self, step: Step) -> bool:
        return self._passes.begin(step)

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Any]:
        return self._passes.combine(cond, uncond), self._passes.measured

    def guide_cond(self, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        return self._passes.combine(cond, None)


class _Counted(Trace):
    """Knows how many evaluations were made."""

    def __init__(self, passes: Passes):
        super().__init__()
        self._passes = passes

    def append(self, step: Step, evaluations: int, samples: int, measured: Any) -> None:
        super().append(step, len(self._passes.batches), samples, self._passes.measured)
