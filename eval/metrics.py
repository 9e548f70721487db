"""The table of metrics: what each one is, what it needs, and the function that computes it. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from diffguide.pipelines.errors import UserError, unknown

from . import metric_functions as how


@dataclass(frozen=True)
class Metric:
    """One metric.

    kind: "distance", "set" or "image". better: "lower", "higher", or "" where neither is. definition: in one line.
    source: the paper or library that it comes from. compute: see `metric_functions`. extractor: the network it is
    defined for, "" for none. any_extractor: whether features of another network can stand in. needs: among
    "features" (of the reference, so that its statistics do not do), "prompts", "baseline", "reward". fewest: images of
    which it can be measured, on each side of a distance.
    """

    kind: str
    better: str
    definition: str
    source: str
    compute: Callable[..., Any]
    extractor: str = ""
    any_extractor: bool = False
    needs: tuple[str, ...] = ()
    fewest: int = 1


METRICS: dict[str, Metric] = {
    "fid": Metric(
        "distance",
        "lower",
        "Frechet distance of Inception-2015-12-05 features",
        "arXiv 1706.08500",
        how.frechet,
        "inception",
        fewest=2,
    ),
    "kid": Metric(
        "distance",
        "lower",
        "unbiased squared MMD, kernel (x.y/d + 1)^3, mean of 100 subsets of up to 1000",
        "arXiv 1801.01401",
        how.kid,
        "inception",
        any_extractor=True,
        needs=("features",),
        fewest=2,
    ),
    "is": Metric(
        "set",
        "higher",
        "Inception Score, 10 splits",
        "arXiv 1606.03498",
        how.inception_score,
        "inception",
        fewest=10,
    ),
    "precision": Metric(
        "distance",
        "higher",
        "share of images within the reference's 3-nearest-neighbour manifold",
        "arXiv 1904.06991",
        how.precision,
        "inception",
        any_extractor=True,
        needs=("features",),
        fewest=4,
    ),
    "recall": Metric(
        "distance",
        "higher",
        "share of the reference within the images' 3-nearest-neighbour manifold",
        "arXiv 1904.06991",
        how.recall,
        "inception",
        any_extractor=True,
        needs=("features",),
        fewest=4,
    ),
    "fd_dinov2": Metric(
        "distance",
        "lower",
        "Frechet distance of DINOv2 class tokens",
        "arXiv 2306.04675",
        how.frechet,
        "dinov2",
        fewest=2,
    ),
    "fd_efficientnet": Metric(
        "distance",
        "lower",
        "Frechet distance of EfficientNet-Lite0 features",
        "this project",
        how.frechet,
        "efficientnet-lite0",
        fewest=2,
    ),
    "cmmd": Metric(
        "distance",
        "lower",
        "1000 x squared MMD of unit CLIP embeddings, Gaussian kernel of width 10",
        "arXiv 2401.09603",
        how.cmmd,
        "clip",
        needs=("features",),
    ),
    "saturation": Metric("image", "", "mean HSV saturation over pixels, in [0, 1]", "HSV", how.saturation),
    "contrast": Metric("image", "", "standard deviation of luma (Rec. 601), in [0, 0.5]", "RMS", how.contrast),
    "clipping": Metric("image", "lower", "share of channel values at 0 or 255", "this project", how.clipping),
    "clip_score": Metric(
        "image",
        "higher",
        "100 max(cos(image, prompt), 0), of the middle square of an image",
        "arXiv 2104.08718",
        how.clip_score,
        "clip",
        needs=("prompts",),
    ),
    "reward": Metric("image", "higher", "mean of a reward (images, prompts)", "yours", how.reward, needs=("reward",)),
    "ssim": Metric(
        "image", "higher", "structural similarity to a baseline image", "torchmetrics", how.ssim, needs=("baseline",)
    ),
}
"""Name -> metric."""


def check_metrics(names: Iterable[str]) -> list[str]:
    """The names, each once, in the order given. UserError: no such metric."""
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    return names


def unmeasured(what: str, metric: str) -> UserError:
    """The error for what is given for a metric that is not asked for."""
    return UserError(f"{what} is measured by the metric {metric}, which is not among those asked for: add it")
