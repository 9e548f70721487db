"""The call of a pipeline that is under way, found on the stack."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from diffusers import DiffusionPipeline


def caller() -> Any:
    """The pipeline whose `__call__` is the innermost under way, or None."""
    return _innermost().get("self")


def variables_of(pipe: Any) -> Mapping[str, Any]:
    """The variables of the innermost `__call__`, where that is the pipeline's; {} elsewhere.

    What a pipeline works out of its arguments, such as height and width, is nowhere else.
    """
    variables = _innermost()
    return variables if variables.get("self") is pipe else {}


def _innermost() -> Mapping[str, Any]:
    """The variables of that `__call__`, asked for once: a frame makes a dictionary of them each time; {} if none."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "__call__" and frame.f_code.co_varnames[:1] == ("self",):
            variables = frame.f_locals
            if isinstance(variables["self"], DiffusionPipeline):
                return variables
        frame = frame.f_back
    return {}
