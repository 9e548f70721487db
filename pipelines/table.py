"""How each pipeline class evaluates its denoiser under classifier-free guidance, as one table.

A class that is not in the table is looked up through its base classes, and probed on its first call where that call is
its own; so is one without any.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from .errors import UserError
from .layouts import Layout
from .switching import call_parameters, takes_negative
from .table_refused import DISTILLED, REFUSED
from .table_single import SINGLE
from .table_stable_diffusion import STABLE_DIFFUSION
from .table_transformers import TRANSFORMERS
from .table_two_calls import TWO_CALLS
from .table_variance import VARIANCE

GUIDERS = (
    Layout(
        (
            "HunyuanImagePipeline",
            "HunyuanImageRefinerPipeline",
            "HunyuanVideo15Pipeline",
            "HunyuanVideo15ImageToVideoPipeline",
            "MotifVideoPipeline",
            "MotifVideoImage2VideoPipeline",
        ),
        calls="guider",
        denoisers=("transformer",),
    ),
)
"""Pipelines whose guidance is an object among their components; `guiders_slot` puts a rule in its place."""

TABLE: tuple[Layout, ...] = (
    *STABLE_DIFFUSION,
    *TRANSFORMERS,
    *VARIANCE,
    *TWO_CALLS,
    *GUIDERS,
    *SINGLE,
    *REFUSED,
)

LOOPS = ("uncond-first", "cond-first", "two")
"""The layouts of what a class does in its own `__call__`, and which probing can tell from one another."""

_BY_CLASS = {name: layout for layout in TABLE for name in layout.classes}


def layout_of(pipe: object) -> Layout:
    """The layout of a pipeline, by its class or the nearest base class; UserError if it is refused.

    Where neither is known, `calls` is "unknown" until `probe` has seen its first call.
    """
    cls = type(pipe)
    layout = next((_BY_CLASS[each.__name__] for each in cls.__mro__ if each.__name__ in _BY_CLASS), None)
    if layout is not None and layout.refused:
        raise UserError(f"no guidance rule can act in {cls.__name__}: {layout.refused}")
    foreign = layout is not None and layout.calls in LOOPS and not _has_known_call(cls)
    if layout is None or (foreign and layout.scale not in call_parameters(cls)[1]):
        from .probe import unknown_layout  # it imports diffusers, which the table itself does without

        return unknown_layout(pipe)
    return replace(layout, foreign=foreign)


def _has_known_call(cls: type[Any]) -> bool:
    """Whether the `__call__` of a class is that of one in the table: of diffusers, not one of the same name."""
    owner = next((each for each in cls.__mro__ if "__call__" in vars(each)), object)
    module = getattr(inspect.unwrap(owner.__call__), "__module__", None) or ""
    return owner.__name__ in _BY_CLASS and module.startswith("diffusers.")


def check_rule(pipe: object, layout: Layout, rule: Any) -> None:
    """UserError if the pipeline makes no unconditional prediction and the rule needs one, or its prompt embedded."""
    if layout.calls != "single" or rule.acts_alone:
        return
    if not rule.acts_inside or not takes_negative(type(pipe)):
        raise UserError(f"{rule} cannot act in {type(pipe).__name__}: {DISTILLED}; nag and reward can")
