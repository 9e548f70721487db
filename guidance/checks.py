"""The checks of options that rules share: each gives the value in its own type, or says what is wrong by its name."""

from __future__ import annotations

import math
from numbers import Integral, Real


def finite(name: str, value: float) -> float:
    """`value` as a float; ValueError naming the option if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):  # NumPy's are Real, too
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return float(value)


def share(start: float, stop: float) -> tuple[float, float]:
    """The part of sampling for `Step.within`; ValueError if it is not one, 0 <= start < stop <= 1."""
    start, stop = finite("start", start), finite("stop", stop)
    if not 0 <= start < stop <= 1:
        raise ValueError(f"a part of sampling needs 0 <= start < stop <= 1, not start={start!r}, stop={stop!r}")
    return start, stop


def whole(name: str, value: int, least: int) -> int:
    """`value` as an int; ValueError naming the option if it is not a whole number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number from {least} on, not {value!r}")
    return int(value)
