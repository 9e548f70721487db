"""The call of a pipeline that is under way, found on the stack."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from diffusers import DiffusionPipeline

_CALLS: set[Any] = set()
"""The code of calls that have another name: of classes whose `__call__` was replaced by a function."""


def know(call: Any) -> None:
    """From now on frames of this function, the `__call__` of a pipeline class, are found whatever its name."""
    code = getattr(inspect.unwrap(call), "__code__", None)
    if code is not None and code.co_name != "__call__":
        _CALLS.add(code)


def caller() -> Any:
    """The pipeline whose `__call__` is the innermost under way, or None."""
    return _innermost()[0]


def variables_of(pipe: Any) -> Mapping[str, Any]:
    """The variables of the innermost `__call__`, where that is the pipeline's; {} elsewhere.

    What a pipeline works out of its arguments, such as height and width, is nowhere else.
    """
    own, variables, _ = _innermost()
    return variables if own is pipe else {}


def module_of_call() -> str:
    """The name of the module in which the innermost `__call__` under way is written, "" if none is."""
    return _innermost()[2]


def _innermost() -> tuple[Any, Mapping[str, Any], str]:
    """That pipeline, the variables of its `__call__`, asked for once, and the name of the module that it is written in.

    A frame makes a dictionary of its variables each time. (None, {}, "") if none is under way.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if (code.co_name == "__call__" and code.co_varnames[:1] == ("self",)) or code in _CALLS:
            variables = frame.f_locals
            pipe = variables[code.co_varnames[0]]
            if isinstance(pipe, DiffusionPipeline):
                return pipe, variables, frame.f_globals.get("__name__", "")
        frame = frame.f_back
    return None, {}, ""
