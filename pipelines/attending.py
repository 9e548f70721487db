"""Rules that act on attention, around the calls of a pipeline's denoiser; the pipeline gets a conditional prediction.

Where the denoiser has to be evaluated for the negative prompt, to see what its attentions are given, that is done once
in a sampling: in a batched call by one more evaluation, and else in the pipeline's own second call, after which the
conditional prediction is made anew. Where text and latents attend to one another, which is seen on this occasion, each
evaluation is one of both prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from diffguide.guidance import Guidance, Measurement, Step

from .batched import BatchedCall
from .caches import keeps_the_batch
from .calls import Arguments, argument_names, by_name, predictions_of, with_predictions
from .cross_attention import CrossAttention, Seen
from .errors import UserError
from .halves import Halves
from .joining import joined, of_text
from .joint_attention import JointAttention
from .layouts import TEXT
from .regions import inside
from .switching import negative_embeddings
from .two_calls import TwoCalls


@dataclass
class _Negative:
    """What one denoiser is given for the negative prompt: its attentions, or itself, where they are joint."""

    seen: Seen = field(default_factory=Seen)
    joint: bool = False
    given: dict[str, Any] = field(default_factory=dict)


class Attending:
    """Stands in for a `Call` between the hooks of the denoiser, as `Passes` does for guiders."""

    def __init__(self, call: BatchedCall | TwoCalls):
        self.call, self.rule, layout = call, call.rule, call.layout
        start = f"{call.rule} acts on attention, which it cannot do in {type(call.pipe).__name__}: "
        self._refusal = lambda why: UserError(start + why)
        self.batched = isinstance(call, BatchedCall)
        if keeps_the_batch(call.pipe, layout):
            raise self._refusal("a cache answers for its attention: take it off first (diffusers': disable_cache())")
        if layout.streams or layout.second or (isinstance(call, BatchedCall) and (layout.whole or len(call.order) > 2)):
            raise self._refusal("its predictions cannot be made one by one")
        call.rule = _Driven(self)
        self.cross, self.joint = self._hooks()
        self.acting = False
        self.module: Any = None
        self.given: Arguments = (), {}
        self.hooked: set[nn.Module] = set()
        self.embedded = None
        if layout.calls == "single":
            self.embedded, undo = negative_embeddings(call.pipe, call.arguments)
            call.undo.append(undo)

    def begin(self, step: Step) -> bool:
        """Whether the pipeline has to make the unconditional prediction: only for what is seen on its way."""
        self.acting = self.rule.needs_uncond(step)
        return self.acting and not self.batched and self.module not in self._known(step)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """The forward pre-hook: that of the call; from here on attention is acted on, or watched."""
        if module not in self.hooked:
            self.hooked.add(module)
            for hooks in (self.cross, self.joint):
                hooks.hook(module, self.call.undo)
        if kwargs.get("kv_caches") is not None:
            raise self._refusal("it keeps caches of its own from one evaluation to the next")
        self.module, step, acting = module, self.call.step, self.acting
        self.acting = False  # where the call does not ask, after a cutoff of the pipeline's own
        changed = self.call.before(module, args, kwargs)
        self.given = changed or (args, kwargs)
        opens, known = self.call.step is not step, self._known(self.call.step)
        if not opens:
            self.acting = acting
        if not self.acting:
            return changed
        if opens and (self.call.layout.latents_first or (module in known and known[module].joint)):
            self.call.step.extra_evaluations += 1
            return self._begin_both()
        if opens and self.batched:
            seen = known.setdefault(module, _Negative()).seen
            negative = self._negative(args, kwargs) if not seen.second else ((), {})
            embeddings = self.given[1].get(TEXT), negative[1].get(TEXT)
            self.cross.act(seen, embeddings, lambda: self._evaluate(negative))
        elif opens and module in known:
            self.cross.act(known[module].seen)
        elif not opens and not self.batched and self.call.opened and module not in known:  # type: ignore[union-attr]
            known[module] = _Negative(given=of_text(by_name(module, args, kwargs)))
            self.cross.watch(known[module].seen)
        return changed

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The forward hook: attention as it was, then the hook of the call."""
        self.cross.end()
        known = self._known(self.call.step).get(module)
        if self.joint.active:
            output = self._end_both(output)
        elif known is not None and self.cross.joint and not known.joint:
            known.joint = True
            if self.batched:  # seen while the prompt was evaluated
                output = self._evaluate_both()
        return self.call.after(module, *self.given, output)

    def again(self, latents: Tensor) -> Tensor:
        """The conditional prediction, made anew after the unconditional one was watched."""
        assert isinstance(self.call, TwoCalls)
        known, step = self._known(self.call.step)[self.module], self.call.step
        if known.joint:
            guided = inside(predictions_of(self._evaluate_both())[0], self.call.where[0])
        else:
            assert step.evaluate is not None
            self.cross.act(known.seen)
            guided = step.evaluate(latents)
            self.cross.end()
            step.extra_evaluations += 1
        return self.call.visible(guided)

    def abandon(self) -> None:
        """Leave nothing behind, nor tensors for the collector of circles."""
        self.call.abandon()
        self.call.rule, self.given = self.rule, ((), {})
        self.cross, self.joint = self._hooks()

    def _hooks(self) -> tuple[CrossAttention, JointAttention]:
        """Hooks that know of the call and the rule, not of this object."""
        call, rule, refusal = self.call, self.rule, self._refusal

        def combine(positive: Tensor, negative: Tensor) -> Tensor:
            return rule.attend(positive, negative, call.step)

        return CrossAttention(combine, refusal), JointAttention(combine, refusal, call.layout.latents_first)

    def _evaluate(self, given: Arguments) -> None:
        """Evaluate the denoiser for the negative prompt, past its hooks."""
        self.module.forward(*given[0], **given[1])
        self.call.step.extra_evaluations += 1

    def _evaluate_both(self) -> Any:
        """Evaluate the denoiser for both prompts, past its hooks; what it returns for the first."""
        args, kwargs = self._begin_both()
        self.call.step.extra_evaluations += 2
        return self._end_both(self.module.forward(*args, **kwargs))

    def _begin_both(self) -> Arguments:
        """From now on the denoiser is evaluated for both prompts, given this."""
        module, args, kwargs = self.call.given
        if isinstance(self.call, BatchedCall) and len(self.call.order) == 2:
            self.joint.act(self.call.order.index("cond"))
            return args, kwargs
        self.joint.act(0)
        given = by_name(module, args, kwargs)
        negative = self.embedded(given) if self.embedded is not None else self._known(self.call.step)[module].given
        return (), joined(module, given, negative, self._refusal)

    def _end_both(self, output: Any) -> Any:
        """That part of the output of such an evaluation which is of the prompt."""
        half = self.joint.end()
        return with_predictions(output, [prediction.chunk(2)[half] for prediction in predictions_of(output)])

    def _known(self, step: Step) -> dict[nn.Module, _Negative]:
        """What each denoiser is given for the negative prompt, in this sampling."""
        return step.state.setdefault("negative prompt", {})

    def _negative(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments of the denoiser for the negative prompt."""
        call: Any = self.call
        if self.embedded is not None:
            return args, kwargs | self.embedded(kwargs)
        half = Halves(call.layout, call.rows, call.order.index("uncond"))
        return half.cut(argument_names(self.module, args), args, kwargs)


class _Driven(Guidance):
    """What the call takes for the rule."""

    def __init__(self, attending: Attending):
        super().__init__(attending.rule.guidance_scale)
        self._attending = attending

    def needs_uncond(self, step: Step) -> bool:
        return self._attending.begin(step)

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        guided = self._attending.again(latents)
        step.decision = "attention"
        return guided, Measurement.of_tensors(cond, cond - uncond, guided)

    def guide_cond(self, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        step.decision = "attention" if self._attending.acting else None
        return cond
