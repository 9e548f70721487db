"""How each pipeline class evaluates its denoiser under classifier-free guidance, as one table.

A class that is not in the table is looked up through its base classes; one without any is probed on its first call.
"""

from __future__ import annotations

from typing import Any

from .errors import UserError
from .layouts import Layout
from .switching import takes_negative
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

_BY_CLASS = {name: layout for layout in TABLE for name in layout.classes}


def layout_of(pipe: object) -> Layout:
    """The layout of a pipeline, by its class or the nearest base class; UserError if it is refused.

    Where neither is known, `calls` is "unknown" until `probe` has seen its first call.
    """
    name = type(pipe).__name__
    for cls in type(pipe).__mro__:
        layout = _BY_CLASS.get(cls.__name__)
        if layout is None:
            continue
        if layout.refused:
            raise UserError(f"no guidance rule can act in {name}: {layout.refused}")
        return layout
    from .probe import unknown_layout  # it imports diffusers, which the table itself does without

    return unknown_layout(pipe)


def check_rule(pipe: object, layout: Layout, rule: Any) -> None:
    """UserError if the pipeline makes no unconditional prediction and the rule needs one, or its prompt embedded."""
    if layout.calls != "single" or rule.acts_alone:
        return
    if not rule.acts_inside or not takes_negative(type(pipe)):
        raise UserError(f"{rule} cannot act in {type(pipe).__name__}: {DISTILLED}; nag and reward can")
