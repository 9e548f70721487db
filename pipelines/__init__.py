"""Rules attached to diffusers pipelines. Importing this package costs neither torch nor diffusers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .best_of import BestOfN, best_of_n
    from .errors import UserError
    from .guiders import as_guider
    from .handle import GuidanceCallback, guide
    from .loading import load_pipeline
    from .noise_search import NoiseSearch, search_noise
    from .rewards import load_reward

__all__ = [
    "BestOfN",
    "GuidanceCallback",
    "NoiseSearch",
    "UserError",
    "as_guider",
    "best_of_n",
    "guide",
    "load_pipeline",
    "load_reward",
    "search_noise",
]

_HOMES = {
    "BestOfN": ".best_of",
    "NoiseSearch": ".noise_search",
    "UserError": ".errors",
    "GuidanceCallback": ".handle",
    "as_guider": ".guiders",
    "best_of_n": ".best_of",
    "guide": ".handle",
    "load_pipeline": ".loading",
    "load_reward": ".rewards",
    "search_noise": ".noise_search",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
