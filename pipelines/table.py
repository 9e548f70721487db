"""How each pipeline class evaluates its denoiser under classifier-free guidance, as one table.

A class that is not in the table is looked up through its base classes; one without any is refused, never guessed.
"""

from __future__ import annotations

from .errors import UserError
from .layouts import Layout
from .table_batched import BATCHED
from .table_refused import REFUSED
from .table_two_calls import TWO_CALLS

TABLE: tuple[Layout, ...] = (*BATCHED, *TWO_CALLS, *REFUSED)

_BY_CLASS = {name: layout for layout in TABLE for name in layout.classes}


def layout_of(pipe: object) -> Layout:
    """The layout of a pipeline, by its class or the nearest base class; UserError if it has none or is refused."""
    name = type(pipe).__name__
    for cls in type(pipe).__mro__:
        layout = _BY_CLASS.get(cls.__name__)
        if layout is None:
            continue
        if layout.refused:
            raise UserError(f"no guidance rule can act in {name}: {layout.refused}")
        return layout
    raise UserError(f"{name} is not a pipeline whose guidance is known; known are {', '.join(sorted(_BY_CLASS))}")
