"""Values of options from text, by the type annotation of the argument."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from .errors import UserError


def parse_value(what: str, text: str, annotation: Any) -> Any:
    """The value of `text`: None, bool, int, float, str, a pair of numbers, Literal, or a union of these.

    Other members of a union cannot be given as text. what: the option, for messages. UserError.
    """
    union = get_origin(annotation) in (Union, UnionType)
    members = get_args(annotation) if union else (annotation,)
    expected = []
    for member in members:
        if get_origin(member) is Literal:
            expected += [str(choice) for choice in get_args(member)]
            if text in expected:
                return next(choice for choice in get_args(member) if str(choice) == text)
        elif member in _READERS:
            words, read = _READERS[member]
            expected.append(words)
            try:
                return read(text)
            except (KeyError, ValueError):
                continue
    if not expected:
        raise UserError(f"{what} cannot be given as text: it is for use from Python")
    raise UserError(f"{what} must be {' or '.join(expected)}, not {text!r}")


MAX_VALUE = 1e30
"""Rules calculate in float32, where larger numbers are soon infinite."""


def _finite(text: str) -> float:
    value = float(text)
    if not abs(value) <= MAX_VALUE:  # nor is "nan"
        raise ValueError(text)
    return value


def _pair(text: str) -> tuple[float, float]:
    low, high = text.split("/")
    return _finite(low), _finite(high)


_READERS: dict[Any, tuple[str, Any]] = {
    NoneType: ("none", lambda text: {"none": None}[text.lower()]),
    bool: ("true or false", lambda text: {"true": True, "false": False}[text.lower()]),
    int: ("a whole number", int),
    float: ("a finite number up to 1e30", _finite),
    tuple[float, float]: ("two numbers such as 45/55", _pair),
    str: ("text", str),
}
