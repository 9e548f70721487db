"""The call of a pipeline that is under way, found on the stack."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from diffusers import DiffusionPipeline


def caller() -> Any:
    """The pipeline whose `__call__` is the innermost under way, or None."""
    frame = _innermost()
    return None if frame is None else frame.f_locals["self"]


def variables_of(pipe: Any) -> Mapping[str, Any]:
    """The variables of the innermost `__call__`, where that is the pipeline's; {} elsewhere.

    What a pipeline works out of its arguments, such as height and width, is nowhere else.
    """
    frame = _innermost()
    return frame.f_locals if frame is not None and frame.f_locals["self"] is pipe else {}


def _innermost() -> FrameType | None:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        is_method = frame.f_code.co_name == "__call__" and frame.f_code.co_varnames[:1] == ("self",)
        if is_method and isinstance(frame.f_locals["self"], DiffusionPipeline):
            return frame
        frame = frame.f_back
    return None
