"""Sampling plans, metrics and comparisons of guidance rules, and the command line. Importing it costs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import compare_rules, make_plan
    from .evaluation import Evaluation, Score, evaluate_images
    from .features import FeatureExtractor, load_extractor
    from .frechet import frechet_distance, frechet_from_features
    from .images import Images
    from .kernels import cmmd, inception_score, kid
    from .manifold import precision_recall
    from .metrics import METRICS
    from .networks import Networks
    from .passes import run_pass
    from .pixels import clipping, contrast, saturation
    from .references import load_reference
    from .report import write_report
    from .sources import open_images
    from .statistics import Moments, Statistics, load_statistics, save_statistics
    from .stats import image_statistics

__all__ = [
    "METRICS",
    "Evaluation",
    "FeatureExtractor",
    "Images",
    "Moments",
    "Networks",
    "Score",
    "Statistics",
    "clipping",
    "cmmd",
    "compare_rules",
    "contrast",
    "evaluate_images",
    "frechet_distance",
    "frechet_from_features",
    "image_statistics",
    "inception_score",
    "kid",
    "load_extractor",
    "load_reference",
    "load_statistics",
    "make_plan",
    "open_images",
    "precision_recall",
    "run_pass",
    "saturation",
    "save_statistics",
    "write_report",
]

_HOMES = {
    "comparison": ("compare_rules", "make_plan"),
    "evaluation": ("Evaluation", "Score", "evaluate_images"),
    "features": ("FeatureExtractor", "load_extractor"),
    "frechet": ("frechet_distance", "frechet_from_features"),
    "images": ("Images",),
    "kernels": ("cmmd", "inception_score", "kid"),
    "manifold": ("precision_recall",),
    "metrics": ("METRICS",),
    "networks": ("Networks",),
    "passes": ("run_pass",),
    "pixels": ("clipping", "contrast", "saturation"),
    "references": ("load_reference",),
    "report": ("write_report",),
    "sources": ("open_images",),
    "statistics": ("Moments", "Statistics", "load_statistics", "save_statistics"),
    "stats": ("image_statistics",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
