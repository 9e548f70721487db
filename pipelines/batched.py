"""All predictions of a step in one call of the denoiser, as parts of a batch.

Every part of the output becomes the guided result, so that whatever affine combination the pipeline makes of them, it
gets exactly that. With a third prediction (InstructPix2Pix: text and image, image alone, neither) the rule acts on the
text, between the first two, and the image keeps the pipeline's own scale s_I:

    u + s_T (c - i) + s_I (i - u)  =  [i + s_T (c - i)] + (s_I - 1) (i - u)        the rule stands for the bracket
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from diffguide.guidance import Step

from .calls import (
    Arguments,
    Call,
    argument_names,
    fills_cache,
    predictions_of,
    sample_of,
    stacked,
    standstill,
    with_predictions,
)
from .contract import conditional_by, guided_by
from .errors import UserError
from .evaluating import evaluated
from .halves import Halves
from .regions import inside, latents_in, region
from .switching import call_parameters

ORDERS = {"uncond-first": ("uncond", "cond"), "cond-first": ("cond", "uncond"), "single": ("cond",)}


@dataclass
class BatchedCall(Call):
    """All predictions of a step in one call. Lists hold one entry per output of the model that is a prediction.

    moved: for `Layout.further_calls`, the region, the conditional prediction and the guided one.
    """

    rows: int = 0
    samples: list[Tensor] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    halved: bool = False
    moved: list[tuple[Any, Tensor, Tensor]] = field(default_factory=list)
    given: Any = None
    where: Any = ...

    @functools.cached_property
    def order(self) -> tuple[str, ...]:
        """What the parts of the batch are, in order."""
        if self.layout.calls != "single" and self.layout.third and self.arguments.get(self.layout.third[0]) is not None:
            return self.layout.third[1]
        return ORDERS[self.layout.calls]

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Note the model input; leave the unconditional half out where the rule does not need it."""
        sample, parts = sample_of(args, kwargs), len(self.order)
        rows = len(sample)
        self.samples = []
        if fills_cache(kwargs):
            return None
        if parts > 1 and not getattr(self.pipe, "do_classifier_free_guidance", True):
            if not self.trace:
                raise UserError(self.inactive())
            self._unguided(kwargs, args, rows)  # a cutoff callback of the user's own has ended guidance
            return None
        if self.rows and rows != self.rows:
            if rows * parts == self.rows and not self.layout.further_calls:
                self._unguided(kwargs, args, rows)  # as Z-Image's cfg_truncation asks for
            return None
        if rows % parts:
            raise UserError(self.inactive() + f"; {rows} rows are no two halves" * (rows > 1))
        self.rows = rows
        self.given = module, args, kwargs
        apart = parts == 1 or (parts == 2 and not self.layout.whole)  # the conditional part can be had alone
        again = apart and not self.layout.lists and not self.layout.streams
        step = self.next_step(kwargs, args, rows // parts, self._evaluate if again else None)
        own = [self.state.setdefault(f"stream {name}", {}) for name in self.layout.streams]
        self.steps = [step, *(replace(step, state=state) for state in own)]
        self.samples = [stacked(each) for each in (sample, *(kwargs[name] for name in self.layout.streams))]
        needed = [self.rule.needs_uncond(each) for each in self.steps]  # all of them: a rule may act on being asked
        self.halved = not any(needed)
        return self._conditional() if self.halved and apart else None

    def _unguided(self, kwargs: dict[str, Any], args: tuple[Any, ...], rows: int) -> None:
        """Note an evaluation of the conditional prediction alone that the pipeline makes on its own account."""
        self.moved = []
        self.trace.append(self.next_step(kwargs, args, rows), 1, rows, None)

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The rule, on what is latents of each prediction; every part of the output becomes its result."""
        predictions = predictions_of(output)
        if not self.samples:
            if not self.layout.further_calls or not self.moved or len(predictions[0]) * len(self.order) != self.rows:
                return output
            self.trace.count_further()
            # Compared with the conditional prediction, in whose place the pipeline has the guided one.
            return with_predictions(output, [_moved(p, *move) for p, move in zip(predictions, self.moved)])
        self.moved, answers = [], []
        for sample, prediction, step in zip(self.samples, predictions, self.steps):
            answers.append(self._guided(sample, prediction, step))
        self.samples = []
        return with_predictions(output, answers)

    def _guided(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """One output of the model with the rule's result in each of its parts."""
        order = self.order
        cut = prediction.shape[0] < self.rows
        self.where = where = self._where(sample, prediction)
        seen = inside(prediction, where)
        parts = dict(zip(order, [seen] * len(order) if cut else seen.chunk(len(order))))
        latents = parts["cond"]
        if self.layout.width != "all":
            latents = latents_in(sample.chunk(len(order))[order.index("cond")], latents, where)
        cond, base = parts["cond"], parts.get("image", parts.get("uncond"))
        measured = None
        if self.halved or base is None:
            guided = conditional_by(self.rule, cond, latents, step)
        else:
            guided, measured = guided_by(self.rule, cond, base, latents, step)
        if step.decision == "zeroed":
            guided = standstill(cond)
        if self.layout.per_frame:
            guided = cond + self._share_of_frames() * (guided - cond)
        if "image" in parts:
            guided = guided + (self.third_scale - 1) * (parts["image"] - parts["uncond"])
        if step is self.steps[0]:
            self.trace.append(step, 1 if cut else len(order), guided.shape[0], measured)
        if self.layout.further_calls:
            self.moved.append((where, cond, guided))
        answer = torch.cat([guided.to(prediction.dtype)] * len(order))  # a rule may remember the predictions themselves
        if where is ...:
            return answer
        whole = torch.cat([prediction] * len(order)) if cut else prediction.clone()
        whole[where] = answer
        return whole

    def _conditional(self) -> Arguments:
        """The arguments of the denoiser for its conditional half alone."""
        module, args, kwargs = self.given
        if len(self.order) == 1:
            return args, kwargs
        half = self.once(("half", self.rows), lambda: Halves(self.layout, self.rows, self.order.index("cond")))
        return half.cut(self.once(("names", module, len(args)), lambda: argument_names(module, args)), args, kwargs)

    def abandon(self) -> None:
        """Leave nothing behind, nor steps, which refer to this call."""
        super().abandon()
        self.steps = []

    def _evaluate(self, latents: Tensor) -> Tensor:
        """`Step.evaluate`."""
        return evaluated(self, self.given[0], self._conditional(), latents, self.where)

    def _where(self, sample: Tensor, prediction: Tensor) -> Any:
        """The part of model input and prediction that is latents."""
        question = "where", sample.shape, prediction.shape, self.count
        return self.once(question, lambda: self._found(sample, prediction))

    def _found(self, sample: Tensor, prediction: Tensor) -> Any:
        layout, dim = self.layout, self.layout.channel_dim
        frame = sample.shape[layout.first_frame] // self.given[2][layout.packed] if layout.packed else 1
        where = region(self.pipe, layout, self.count, frame)
        if where is not ... or layout.width == "all":
            return where
        if layout.width == "shared":
            if sample.shape[1:] == prediction.shape[1:]:
                return ...
            shared = [slice(0, min(sizes)) for sizes in zip(sample.shape[1:], prediction.shape[1:])]
            return (slice(None), *shared)
        width = prediction.shape[dim] // 2 if layout.width == "half" else layout.width
        return (*[slice(None)] * dim, slice(0, width))

    def _share_of_frames(self) -> Tensor:
        """How much of the rule's move each frame gets: linear in its scale, 0 at a scale of 1 and 1 at the largest."""
        scales = self.pipe.guidance_scale - 1
        return scales / scales[:, -1:]

    @property
    def third_scale(self) -> float:
        """The pipeline's own scale of the image axis."""
        name = self.layout.third_scale
        default = call_parameters(type(self.pipe))[1][name].default
        return self.arguments.get(name, default)


def _moved(prediction: Tensor, where: Any, cond: Tensor, guided: Tensor) -> Tensor:
    """Another prediction, moved in the region as far as the rule moved the conditional one."""
    moved = prediction.clone()
    moved[where] += guided - cond
    return moved
