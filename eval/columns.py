"""The metrics of a comparison: how they are called, which way is better, how many digits they deserve."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from diffguide.pipelines.errors import unknown

from .metric_functions import frechet
from .metrics import METRICS

FRECHET = tuple(name for name, metric in METRICS.items() if metric.compute is frechet)
DASH, MINUS = "\u2013", "\u2212"
COMPUTED = ("evaluations", "effective_scale")
"""What comes from the trace, and is not asked for."""


@dataclass(frozen=True)
class Column:
    """better: -1 where less is better, 1 where more is, 0 where neither. definition: in one line."""

    label: str
    digits: int
    better: int
    definition: str


def _column(name: str, label: str, digits: int) -> Column:
    metric = METRICS[name]
    return Column(label, digits, {"lower": -1, "higher": 1, "": 0}[metric.better], metric.definition)


COLUMNS: dict[str, Column] = {
    "fid": _column("fid", "FID", 2),
    "fd_dinov2": _column("fd_dinov2", "FD-DINOv2", 1),
    "fd_efficientnet": _column("fd_efficientnet", "FD-EfficientNet", 1),
    "kid": _column("kid", "KID", 5),
    "cmmd": _column("cmmd", "CMMD", 3),
    "precision": _column("precision", "precision", 3),
    "recall": _column("recall", "recall", 3),
    "clip_score": _column("clip_score", "CLIPScore", 2),
    "reward": _column("reward", "reward", 4),
    "ssim": Column("SSIM", 3, 0, "structural similarity to the image of the same seed by the first rule there"),
    "clipping": _column("clipping", "clipping", 4),
    "saturation": _column("saturation", "saturation", 4),
    "contrast": _column("contrast", "contrast", 4),
    "evaluations": Column("evaluations", 1, -1, "of the denoiser per image, as it would be made alone"),
    "effective_scale": Column(
        "effective scale", 2, 0, "mean over steps of <guided - uncond, d> / |d|^2 with d = cond - uncond"
    ),
}

CHOICES = tuple(name for name in COLUMNS if name not in COMPUTED)


def check_column(name: str) -> str:
    """`name`, if a comparison can measure it; UserError if not."""
    if name not in CHOICES:
        raise unknown("metric", name, CHOICES)
    return name


def fewest_images(name: str) -> int:
    """Images of each cell of which a metric can be measured: one more where each is left out of a Frechet distance."""
    return METRICS[name].fewest + (name in FRECHET)


def judged(metrics: Iterable[str]) -> list[str]:
    """Those of the metrics that were asked for and have a better side."""
    return [name for name in CHOICES if name in metrics and COLUMNS[name].better]


def has_interval(name: str) -> bool:
    """Whether a metric has one number per image, from which intervals are resampled."""
    return name in FRECHET or name not in METRICS or METRICS[name].kind == "image"


def number(name: str, value: float | None) -> str:
    """A value with the digits of its metric and a true minus sign; a dash for none."""
    if value is None or value != value:
        return DASH
    return f"{value:.{COLUMNS[name].digits}f}".replace("-", MINUS)
