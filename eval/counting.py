"""How many evaluations of its denoiser a pipeline makes on its own, where no rule keeps a trace of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffguide.pipelines.calls import sample_of
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.table import layout_of


class Counter:
    """rows: those that went through the denoisers so far; None where it is not known what the denoisers are."""

    def __init__(self, rows: int | None):
        self.rows = rows

    def per_image(self, images: int) -> float:
        """Evaluations for each of so many images since the last time that this was asked; NaN where not known."""
        if self.rows is None:
            return float("nan")
        found, self.rows = self.rows / images, 0
        return found

    def __call__(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the rows of the model input: a batch, or a list with one entry per row."""
        self.rows = (self.rows or 0) + len(sample_of(args, kwargs))


@contextmanager
def counted(pipe: Any) -> Iterator[Counter]:
    """Count what goes through the denoisers of a pipeline."""
    try:
        layout = layout_of(pipe)
    except UserError:  # a pipeline in which no rule can act is sampled all the same
        yield Counter(None)
        return
    modules = [getattr(pipe, name, None) for name in dict.fromkeys((*layout.denoisers, layout.second)) if name]
    present = [module for module in modules if module is not None]
    counter = Counter(0 if present else None)
    hooks = [module.register_forward_pre_hook(counter, with_kwargs=True) for module in present]
    try:
        yield counter
    finally:
        for hook in hooks:
            hook.remove()
