"""Rules attached to diffusers pipelines. Importing this package costs neither torch nor diffusers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .guiders import as_guider
    from .handle import GuidanceCallback, guide
    from .loading import load_pipeline

__all__ = ["GuidanceCallback", "as_guider", "guide", "load_pipeline"]

_HOMES = {
    "GuidanceCallback": ".handle",
    "as_guider": ".guiders",
    "guide": ".handle",
    "load_pipeline": ".loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
