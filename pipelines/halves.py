"""Cutting one half out of the arguments of a batched call."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .calls import Arguments
from .layouts import Layout

SHARED = ("image_rotary_emb", "rotary_embedding", "rotary_emb", "img_ids", "txt_ids", "ip_adapter_masks")
"""Positions and masks, the same for all rows whatever their number happens to be."""


@dataclass(frozen=True)
class Halves:
    """Half number `index` of a batch of `rows` rows, as the layout says for each argument."""

    layout: Layout
    rows: int
    index: int

    def cut(self, names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """One half of all arguments; names: of those in `args`."""
        return (
            tuple(self._named(name, value) for name, value in zip([*names, *[""] * len(args)], args)),
            {name: self._named(name, value) for name, value in kwargs.items()},
        )

    def _named(self, name: str, value: Any) -> Any:
        if name in (*SHARED, *self.layout.shared):
            return value
        if name in self.layout.lists:
            return None if value is None else value[self._half(len(value))]
        return self._take(value, self._split.get(name))

    def _take(self, value: Any, dim: int | None) -> Any:
        """The half of every tensor in `value`: along `dim`, or along the first dimension where that has all rows."""
        if isinstance(value, Tensor):
            if dim is not None:
                return value.chunk(2, dim)[self.index]
            return value[self._half(self.rows)] if value.ndim and value.shape[0] == self.rows else value
        if isinstance(value, dict):
            shared = {name: entry for name, entry in value.items() if name in SHARED}
            return {name: self._take(entry, self._split.get(name, dim)) for name, entry in value.items()} | shared
        if isinstance(value, (tuple, list)):
            return type(value)(self._take(entry, dim) for entry in value)
        return value

    @functools.cached_property
    def _split(self) -> dict[str, int]:
        return dict(self.layout.split)

    def _half(self, length: int) -> slice:
        return slice(0, length // 2) if self.index == 0 else slice(length // 2, None)
