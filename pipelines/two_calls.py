"""Two calls of the denoiser a step.

The pipeline gets a copy of the conditional prediction to keep, and the guided result as its unconditional one; the kept
copy is overwritten in place at that moment, so that both are equal. Where the pipeline has computed on a copy of its
own by then (`Layout.copied`), the second answer is instead the one that its formula turns into the guided result:

    cond + s (cond - u') = guided    where    u' = cond + (cond - guided) / s
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from diffguide.guidance import Step

from .answering import answer
from .calls import Call, by_name, fills_cache, predictions_of, sample_of, standstill, with_predictions
from .contract import conditional_by, guided_by
from .errors import UserError
from .evaluating import evaluated
from .frames import caller
from .regions import inside, latents_in, region


@dataclass
class TwoCalls(Call):
    """Two calls of the denoiser a step, the conditional one first.

    Lists hold one tensor per stream of the model (video, and audio where there is some). cond: what the model said;
    kept: the copies that the pipeline has. A step is open from its first call to its second.
    """

    steps: list[Step] = field(default_factory=list)
    cond: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    where: list[Any] = field(default_factory=list)
    mask: Tensor | None = None
    text: Any = None
    position: Any = None
    shape: Any = None
    given: Any = None
    opened: bool = False
    second: bool = False
    alone: bool = False
    ignored: bool = False
    restore_forward: Callable[[], None] | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A conditional call opens a step; nothing to do before the second."""
        self.ignored = fills_cache(kwargs)
        if self.ignored:
            return
        named = by_name(module, args, kwargs)
        text, position = named.get("encoder_hidden_states"), getattr(self.places.scheduler, "step_index", None)
        another = text is not self.text or self._one_text
        self.second = self.opened and another and position == self.position
        if self.second:
            return
        self._close()
        self.opened, self.text, self.position = True, text, position
        sample = sample_of((), named)
        self._forget(sample.shape)
        # Pipelines put the images of an IP-Adapter into one dictionary for both calls.
        self.given = module, args, {name: dict(v) if type(v) is dict else v for name, v in kwargs.items()}
        again = None if self.layout.streams else self._evaluate
        step = self.next_step(named, (), len(sample), again)
        states = [self.state.setdefault(name, {}) for name in self.layout.streams]
        self.steps = [step, *(replace(step, state=state) for state in states)]
        needed = [self.rule.needs_uncond(each) for each in self.steps]  # each: a rule may act on being asked
        self.alone = not any(needed)

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """After the first call hand out a copy of cond; after the second what makes the pipeline's result guided."""
        if self.ignored:
            return output
        return self._after_second(output) if self.second else self._after_first(module, args, kwargs, output)

    def _after_first(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        self.cond = _tensors(output)
        named = by_name(module, args, kwargs)
        samples = [sample_of((), named), *(named[name] for name in self.layout.streams)]
        self.where = [region(self.pipe, self.layout, self.count), *(... for _ in self.layout.streams)]
        self.latents = [latents_in(z, inside(c, where), where) for z, c, where in zip(samples, self.cond, self.where)]
        self.mask = kwargs.get(self.layout.mask)
        self.kept = [c.to(torch.float32 if self.layout.float32 else c.dtype, copy=True) for c in self.cond]
        if self.alone:
            for kept, cond, latents, where, step in self._each():
                result = conditional_by(self.rule, inside(cond, where), latents, step)
                kept[where] = standstill(inside(cond, where)) if step.decision == "zeroed" else result
            # A cache of the unconditional call that is filled at the first step has to be filled.
            if kwargs.get("kv_cache_mode") != "extract":
                self._answer_next_call(module, output)
        return with_predictions(output, self.kept)

    def _after_second(self, output: Any) -> Any:
        self.opened = False
        guided, measured = [], None
        for k, (uncond, (kept, cond, latents, where, step)) in enumerate(zip(_tensors(output), self._each())):
            if self.alone:
                result = kept[where].clone()
            else:
                both = inside(cond, where), inside(uncond, where)
                seen = [self.visible(tensor.to(kept.dtype)) for tensor in (*both, latents)]
                result, measures = guided_by(self.rule, seen[0], seen[1], seen[2], step)
                measured = measures if k == 0 else measured
                if self.layout.copied:
                    result = kept + (kept - result) / self._native_extra
                else:
                    kept[where] = result
            guided.append(_with_region(uncond, where, result))
        self.trace.append(self.step, 1 if self.alone else 2, len(guided[0]), measured)
        self._give_back()
        return with_predictions(output, guided)

    def _each(self) -> list[tuple[Tensor, Tensor, Tensor, Any, Step]]:
        """Kept, cond, latents, their region and step of each stream; a rule remembers each for itself."""
        return list(zip(self.kept, self.cond, self.latents, self.where, self.steps))

    @functools.cached_property
    def _one_text(self) -> bool:
        """Whether the prompt's embedding is given as the negative prompt's, too, so that it does not tell the calls."""
        given = self.arguments.get("negative_prompt_embeds")
        return given is not None and given is self.arguments.get("prompt_embeds")

    def visible(self, tensor: Tensor) -> Tensor:
        """Zero where the pipeline overwrites the prediction, so that no inner product has a share from there."""
        return tensor if self.mask is None else tensor * (1 - self.mask)

    @property
    def _native_extra(self) -> float:
        """How many times the pipeline's own formula adds cond - uncond to cond."""
        return self.pipe.guidance_scale + self.layout.offset - 1

    def _evaluate(self, latents: Tensor) -> Tensor:
        """`Step.evaluate`, with what the pipeline overwrites as it is."""
        if self.mask is not None:
            latents = self.visible(latents) + self.mask * self.latents[0]
        return evaluated(self, self.given[0], self.given[1:], latents, self.where[0])

    def _forget(self, shape: Any) -> None:
        """Of what a rule remembers at another size, what has no size lasts."""
        if shape != self.shape:
            sizes = {latents.shape for latents in self.latents}
            self.state = {name: value for name, value in self.state.items() if not _holds(value, sizes)}
        self.shape = shape

    def finish(self) -> None:
        """Also when the last unconditional call never came."""
        self._close()
        super().finish()

    def _close(self) -> None:
        """End a step whose unconditional call never came: the pipeline has cut its own guidance off, or never began."""
        if self.opened and not self.trace:
            raise UserError(self.inactive())
        if self.opened:
            self.trace.append(self.step, 1, len(self.kept[0]), None)
        self.opened = False
        self._give_back()

    def _answer_next_call(self, module: nn.Module, output: Any) -> None:
        if self.layout.second:  # whose own model input has no more than the latents
            module = getattr(self.pipe, self.layout.second)
            output = with_predictions(output, [cond[where] for cond, where in zip(self.cond, self.where)])
        self.restore_forward = answer(module, output, lambda: self.second and caller() is self.pipe)

    def _give_back(self) -> None:
        if self.restore_forward is not None:
            self.restore_forward()
            self.restore_forward = None

    def abandon(self) -> None:
        """Give module and pipeline their own methods back."""
        super().abandon()
        self.steps = []
        self._give_back()


def _with_region(prediction: Tensor, where: Any, latents: Tensor) -> Tensor:
    """`prediction` with other latents in its region."""
    if where is ...:
        return latents
    prediction = prediction.to(latents.dtype, copy=True)
    prediction[where] = latents
    return prediction


def _tensors(output: Any) -> list[Tensor]:
    """The predictions there are: a stream that is not sampled is None."""
    return [prediction for prediction in predictions_of(output) if isinstance(prediction, Tensor)]


def _holds(value: Any, sizes: set[Any]) -> bool:
    """Whether there is a tensor of one of these shapes in it."""
    if isinstance(value, Tensor):
        return value.shape in sizes
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(_holds(entry, sizes) for entry in entries)
