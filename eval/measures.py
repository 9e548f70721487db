"""What a comparison measures on its images while they are made. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffguide.pipelines.errors import UserError

from .metrics import METRICS, Context, Reference, network_of
from .plan import NETWORKS, Plan

if TYPE_CHECKING:
    from torch import Tensor

    from .evaluation import Networks
    from .features import FeatureExtractor
    from .sampler import Measure


def networks_of(plan: Plan) -> dict[str, str]:
    """The network of each of a plan's metrics that is a distance between features, and of clip_score."""
    used = [name for name in plan.metrics if METRICS[name].kind == "distance" or name == "clip_score"]
    return {name: network_of(name, plan.extractor, plan.clip, plan.dinov2) for name in used}


def distances(metrics: Sequence[str]) -> list[str]:
    """Those of the metrics that need a reference."""
    return [name for name in metrics if METRICS[name].kind == "distance"]


def load_networks(plan: Plan, device: str) -> tuple[dict[str, FeatureExtractor], Any]:
    """The networks whose features are kept, by name, and the CLIP model of clip_score, None where it is not asked."""
    loader = _networks(plan, device)
    clip = loader.load_one(loader.of("clip_score")) if "clip_score" in plan.metrics else None
    return loader.load(distances(plan.metrics)), clip


def measure_reference(plan: Plan, extractors: dict[str, FeatureExtractor], device: str) -> dict[str, Reference]:
    """What a plan's images are measured against, by network; {} without a reference. UserError as `evaluate_images`."""
    from .evaluation import _measure_reference, check_needs, open_reference

    if plan.reference is None:
        return {}
    metrics, side = distances(plan.metrics), open_reference(plan.reference)
    check_needs(metrics, side, False, False)
    return _measure_reference(side, metrics, _networks(plan, device), extractors, batch_size=32)


def _networks(plan: Plan, device: str) -> Networks:
    from .evaluation import Networks

    return Networks(**{name: getattr(plan, name) for name in NETWORKS}, device=device)


def make_measures(
    metrics: Sequence[str], extractors: Mapping[str, FeatureExtractor] | None = None, clip: Any = None
) -> dict[str, Measure]:
    """The measures that `metrics` need, for `grid.run_plan`.

    extractors: of the features that are kept, by the names of their networks. clip: a `towers.ClipExtractor`, for
    clip_score.
    """
    measures = {name: _of_image(name, clip) for name in metrics if name in METRICS and METRICS[name].kind == "image"}
    for network, extractor in (extractors or {}).items():
        measures[f"features_{network}"] = _of_features(extractor)
    return measures


def _of_image(name: str, clip: Any) -> Measure:
    def measure(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return METRICS[name].compute(images, Context(prompts=prompts, clip=clip))

    return measure


def _of_features(extractor: FeatureExtractor) -> Measure:
    def measure(images: Tensor, prompts: Sequence[str]) -> Tensor:
        features = extractor(images)
        if not features.isfinite().all():
            raise UserError(f"{extractor.name} gave features that are not finite for an image of {prompts[0]!r}")
        return features

    return measure
