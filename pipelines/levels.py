"""The tables of a scheduler, read once a call: what a step needs of them is then a number, or one view of a tensor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diffguide.guidance.basis import Scalar
from diffguide.guidance.tensors import on_device


class Levels:
    """Entries of a scheduler's tables: numbers, or tensors of no dimension where the place is known to a device alone.

    A table is turned into numbers, or brought to the device of the place, when it is first looked at. That is before
    the first evaluation, where schedulers wait for the device as well to look their own index up; later steps do not.
    """

    def __init__(self) -> None:
        self._read: dict[tuple[int, torch.device | None], tuple[Tensor, Any]] = {}

    def at(self, table: Tensor, place: int | Tensor) -> Scalar:
        """table[place]; place: an integer, or a tensor of no dimension that holds one."""
        device = place.device if isinstance(place, Tensor) else None
        key = id(table), device
        if key not in self._read:  # kept with the table itself, whose id is then no other's
            self._read[key] = table, table.tolist() if device is None else on_device(table, device)
        found = self._read[key][1]
        # found[tensor] would read the tensor, and `take` is not there on Apple's GPUs.
        return found.index_select(0, place.reshape(1)).squeeze(0) if isinstance(place, Tensor) else found[place]


def number(value: Any) -> Any:
    """A tensor of no dimension on the CPU as a number; anything else as it is."""
    return float(value) if isinstance(value, Tensor) and value.is_cpu and not value.ndim else value


def numbers(pair: Any) -> Any:
    """Both of a pair, as `number`; None as it is."""
    return pair and (number(pair[0]), number(pair[1]))


def integer(timestep: Any) -> int | Tensor:
    """A timestep as an index: a number, or a tensor of no dimension where it is on another device than the CPU."""
    return timestep.long() if isinstance(timestep, Tensor) and not timestep.is_cpu else int(timestep)


def over(numerator: Scalar, denominator: Scalar) -> Scalar:
    """numerator / denominator, infinite where that is 0, as it is for tensors."""
    if isinstance(denominator, Tensor) or denominator:
        return numerator / denominator
    return math.copysign(math.inf, numerator)
