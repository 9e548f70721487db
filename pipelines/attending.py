"""Rules that act on attention, around the calls of a pipeline's denoiser; the pipeline gets a conditional prediction.

Where the denoiser has to be evaluated for the negative prompt, to see what its attentions are given, that is done once
in a sampling: in a batched call by one more evaluation, and else in the pipeline's own second call, after which the
conditional prediction is made anew.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from diffguide.guidance import Guidance, Measurement, Step

from .batched import BatchedCall
from .caches import keeps_the_batch
from .calls import Arguments, argument_names
from .cross_attention import TEXT, CrossAttention, Seen
from .errors import UserError
from .halves import Halves
from .switching import negative_embeddings
from .two_calls import TwoCalls


class Attending:
    """Stands in for a `Call` between the hooks of the denoiser, as `Passes` does for guiders."""

    def __init__(self, call: BatchedCall | TwoCalls):
        self.call, self.rule, layout = call, call.rule, call.layout
        self.batched = isinstance(call, BatchedCall)
        if keeps_the_batch(call.pipe, layout):
            raise self._refusal("a cache of diffusers answers for its attention: disable_cache() first")
        if layout.streams or layout.second or (isinstance(call, BatchedCall) and (layout.whole or len(call.order) > 2)):
            raise self._refusal("its predictions cannot be made one by one")
        call.rule = _Driven(self)
        self.attention = CrossAttention(self._combine, self._refusal)
        self.acting = False
        self.module: Any = None
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
            self.call.undo += self.attention.hook(module)
        self.module, step = module, self.call.step
        changed = self.call.before(module, args, kwargs)
        opens, known = self.call.step is not step, self._known(self.call.step)
        if not self.acting:
            return changed
        if opens and self.batched:
            seen = known.setdefault(module, {})
            negative = self._negative(args, kwargs) if not seen else ((), {})
            first = (changed or (args, kwargs))[1]
            embeddings = first.get(TEXT), negative[1].get(TEXT)
            self.attention.act(seen, embeddings, lambda: self._evaluate(negative))
        elif opens and module in known:
            self.attention.act(known[module])
        elif not opens and not self.batched and self.call.opened and module not in known:  # type: ignore[union-attr]
            self.attention.watch(known.setdefault(module, {}))
        return changed

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The forward hook: attention as it was, then the hook of the call."""
        self.attention.end()
        return self.call.after(module, args, kwargs, output)

    def again(self, latents: Tensor) -> Tensor:
        """The conditional prediction, made anew after the unconditional one was watched."""
        step = self.call.step
        assert step.evaluate is not None
        self.attention.act(self._known(step)[self.module])
        guided = step.evaluate(latents)
        self.attention.end()
        step.extra_evaluations += 1
        return guided

    def abandon(self) -> None:
        """Leave nothing behind."""
        self.call.abandon()

    def _evaluate(self, given: Arguments) -> None:
        """Evaluate the denoiser for the negative prompt, past its hooks."""
        self.module.forward(*given[0], **given[1])
        self.call.step.extra_evaluations += 1

    def _known(self, step: Step) -> dict[nn.Module, Seen]:
        """What the attentions of each denoiser were given for the negative prompt, in this sampling."""
        return step.state.setdefault("negative prompt", {})

    def _negative(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments of the denoiser for the negative prompt."""
        call: Any = self.call
        if self.embedded is not None:
            return args, kwargs | {TEXT: self.embedded()}
        half = Halves(call.layout, call.rows, call.order.index("uncond"))
        return half.cut(argument_names(self.module, args), args, kwargs)

    def _combine(self, positive: Tensor, negative: Tensor) -> Tensor:
        return self.rule.attend(positive, negative, self.call.step)

    def _refusal(self, why: str) -> UserError:
        return UserError(
            f"{self.rule} acts on cross-attention, which it cannot do in {type(self.call.pipe).__name__}: {why}"
        )


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
