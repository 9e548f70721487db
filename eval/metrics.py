"""The table of metrics: what each one is, what it needs, and how it is computed. Importing it imports no torch.

Three kinds, each with one way to call `compute`:

    distance   compute(features, reference) -> Measured          a set of images against a reference
    set        compute(features, extractor) -> Measured          a set of images alone
    image      compute(images, context) -> (N,) tensor           each image by itself; the mean is reported

Features are (n, d), images (N, 3, H, W) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from diffguide.pipelines.errors import UserError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from .statistics import Statistics


class Measured(NamedTuple):
    """A number, and its standard deviation over the subsets or splits of a metric that draws some."""

    value: float
    spread: float | None = None


@dataclass(frozen=True)
class Reference:
    """What images are measured against, as one network sees it. features: (m, d), None where they are not known."""

    statistics: Statistics
    features: Tensor | None = None


@dataclass(frozen=True)
class Context:
    """What a metric of single images may need besides them, for the same images.

    prompts: N texts. baseline: (N, 3, H, W) in [0, 1], images to compare with. clip: a `towers.ClipExtractor`.
    reward: a callable (images, prompts) -> (N,).
    """

    prompts: Sequence[str] | None = None
    baseline: Tensor | None = None
    clip: Any = None
    reward: Callable[[Tensor, Sequence[str] | None], Tensor] | None = None


@dataclass(frozen=True)
class Metric:
    """One metric.

    kind: "distance", "set" or "image". better: "lower", "higher", or "" where neither is. definition: in one line.
    source: the paper or library that it comes from. compute: see the top of this file. extractor: the network it is
    defined for, "" for none. any_extractor: whether features of another network can stand in. needs: among
    "features" (of the reference, so that its statistics do not do), "prompts", "baseline", "reward".
    """

    kind: str
    better: str
    definition: str
    source: str
    compute: Callable[..., Any]
    extractor: str = ""
    any_extractor: bool = False
    needs: tuple[str, ...] = ()


def _frechet(features: Tensor, reference: Reference) -> Measured:
    """Through statistics for many images, through the smaller n x n matrix for few."""
    from .frechet import frechet_distance, frechet_from_features
    from .statistics import Moments

    if len(features) <= features.shape[1]:
        return Measured(float(frechet_from_features(features, reference.statistics)))
    moments = Moments()
    moments.update(features)
    return Measured(frechet_distance(moments.statistics(), reference.statistics))


def _kid(features: Tensor, reference: Reference) -> Measured:
    from .kernels import kid

    assert reference.features is not None
    return Measured(*kid(features, reference.features))


def _cmmd(features: Tensor, reference: Reference) -> Measured:
    from .kernels import cmmd

    assert reference.features is not None
    return Measured(cmmd(features, reference.features))


def _precision(features: Tensor, reference: Reference) -> Measured:
    return Measured(_both(features, reference)[0])


def _recall(features: Tensor, reference: Reference) -> Measured:
    return Measured(_both(features, reference)[1])


def _both(features: Tensor, reference: Reference) -> tuple[float, float]:
    from .manifold import precision_recall

    assert reference.features is not None
    return precision_recall(features, reference.features)


def _inception_score(features: Tensor, extractor: Any) -> Measured:
    from .kernels import inception_score

    if extractor.classifier is None:
        raise UserError(
            "the Inception Score needs the network's last layer, which these weights lack: give torch-fidelity's or "
            "pytorch-fid's checkpoint with --inception PATH"
        )
    return Measured(*inception_score(features @ extractor.classifier.to(features).T))


def _saturation(images: Tensor, context: Context) -> Tensor:
    from .pixels import saturation

    return saturation(images)


def _contrast(images: Tensor, context: Context) -> Tensor:
    from .pixels import contrast

    return contrast(images)


def _clipping(images: Tensor, context: Context) -> Tensor:
    from .pixels import clipping

    return clipping(images)


def _clip_score(images: Tensor, context: Context) -> Tensor:
    from torch.nn.functional import cosine_similarity

    image, text = context.clip(images), context.clip.embed_text(context.prompts)
    return 100 * cosine_similarity(image, text).clamp(min=0)


def _reward(images: Tensor, context: Context) -> Tensor:
    assert context.reward is not None
    return context.reward(images, context.prompts)


def _ssim(images: Tensor, context: Context) -> Tensor:
    from torchmetrics.functional.image import structural_similarity_index_measure

    baseline = context.baseline
    if baseline is None or baseline.shape != images.shape:
        shapes = f"{tuple(images.shape)} against {None if baseline is None else tuple(baseline.shape)}"
        raise UserError(f"SSIM needs a baseline image of the same size for each image: {shapes}")
    # A batch of one comes back without its dimension.
    return structural_similarity_index_measure(images, baseline, data_range=1.0, reduction="none").reshape(-1)


METRICS: dict[str, Metric] = {
    "fid": Metric(
        "distance",
        "lower",
        "Frechet distance of Inception-2015-12-05 features",
        "arXiv 1706.08500",
        _frechet,
        "inception",
    ),
    "kid": Metric(
        "distance",
        "lower",
        "unbiased squared MMD, kernel (x.y/d + 1)^3, mean of 100 subsets of up to 1000",
        "arXiv 1801.01401",
        _kid,
        "inception",
        any_extractor=True,
        needs=("features",),
    ),
    "is": Metric("set", "higher", "Inception Score, 10 splits", "arXiv 1606.03498", _inception_score, "inception"),
    "precision": Metric(
        "distance",
        "higher",
        "share of images within the reference's 3-nearest-neighbour manifold",
        "arXiv 1904.06991",
        _precision,
        "inception",
        any_extractor=True,
        needs=("features",),
    ),
    "recall": Metric(
        "distance",
        "higher",
        "share of the reference within the images' 3-nearest-neighbour manifold",
        "arXiv 1904.06991",
        _recall,
        "inception",
        any_extractor=True,
        needs=("features",),
    ),
    "fd_dinov2": Metric(
        "distance", "lower", "Frechet distance of DINOv2 class tokens", "arXiv 2306.04675", _frechet, "dinov2"
    ),
    "fd_efficientnet": Metric(
        "distance",
        "lower",
        "Frechet distance of EfficientNet-Lite0 features",
        "this project",
        _frechet,
        "efficientnet-lite0",
    ),
    "cmmd": Metric(
        "distance",
        "lower",
        "1000 x squared MMD of unit CLIP embeddings, Gaussian kernel of width 10",
        "arXiv 2401.09603",
        _cmmd,
        "clip",
        needs=("features",),
    ),
    "saturation": Metric("image", "", "mean HSV saturation over pixels, in [0, 1]", "HSV", _saturation),
    "contrast": Metric("image", "", "standard deviation of luma (Rec. 601) over pixels, in [0, 0.5]", "RMS", _contrast),
    "clipping": Metric("image", "lower", "share of channel values at 0 or 255", "this project", _clipping),
    "clip_score": Metric(
        "image", "higher", "100 max(cos(image, prompt), 0)", "arXiv 2104.08718", _clip_score, "clip", needs=("prompts",)
    ),
    "reward": Metric("image", "higher", "mean of a reward (images, prompts)", "yours", _reward, needs=("reward",)),
    "ssim": Metric(
        "image", "higher", "structural similarity to a baseline image", "torchmetrics", _ssim, needs=("baseline",)
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


def network_of(name: str, extractor: str | None = None, clip: str | None = None, dinov2: str | None = None) -> str:
    """The extractor that a metric uses, as `load_extractor` names it; "" for none.

    Args:
        name: of the metric.
        extractor: what stands in for Inception in KID, precision and recall.
        clip, dinov2: hub id or folder for the metrics of these networks.
    """
    metric = METRICS[name]
    if metric.any_extractor and extractor:
        return extractor
    chosen = {"clip": clip, "dinov2": dinov2}.get(metric.extractor)
    return f"{metric.extractor}:{chosen}" if chosen else metric.extractor
