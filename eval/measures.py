"""What a comparison measures on its images while they are made. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffguide.pipelines.errors import UserError

from .metric_functions import Context, Reference
from .metrics import METRICS
from .networks import Networks
from .plan import NETWORK_OPTIONS, Plan

if TYPE_CHECKING:
    from torch import Tensor

    from .features import FeatureExtractor
    from .sampler import Measure

SEEN = ("clip_score", "reward")
"""Metrics of single images that need a network."""


def distances(metrics: Sequence[str]) -> list[str]:
    """Those of the metrics that need a reference."""
    return [name for name in metrics if METRICS[name].kind == "distance"]


def networks_of(plan: Plan, device: str | None = None) -> Networks:
    """The networks of a plan's metrics, for a device."""
    return Networks(**{name: getattr(plan, name) for name in NETWORK_OPTIONS}, device=device)


def load_networks(plan: Plan, device: str) -> tuple[dict[str, FeatureExtractor], dict[str, Any]]:
    """The networks whose features are kept, by name, and those of the metrics in SEEN, by metric."""
    networks = networks_of(plan, device)
    seen = {name: networks.load_one(networks.of(name)) for name in SEEN if name in plan.metrics}
    return networks.load(distances(plan.metrics)), seen


def measure_reference(plan: Plan, extractors: dict[str, FeatureExtractor], device: str) -> dict[str, Reference]:
    """What a plan's images are measured against, by network; {} without a reference. UserError as `evaluate_images`."""
    from . import against

    if plan.reference is None:
        return {}
    metrics = distances(plan.metrics)
    side = against.open_reference(plan.reference, convert=plan.convert, skip_bad=plan.skip_bad)
    against.check_needs(metrics, side, False, False)
    return against.measure_reference(side, metrics, networks_of(plan, device), extractors)


def make_measures(
    metrics: Sequence[str],
    extractors: Mapping[str, FeatureExtractor] | None = None,
    seen: Mapping[str, Any] | None = None,
) -> dict[str, Measure]:
    """The measures that `metrics` need, for `grid.run_plan`; what needs a baseline comes later, from the images' files.

    extractors: of the features that are kept, by the names of their networks. seen: see `load_networks`.
    """
    seen = seen or {}
    context = Context(clip=seen.get("clip_score"), reward=seen.get("reward"))
    single = [name for name in metrics if METRICS[name].kind == "image" and "baseline" not in METRICS[name].needs]
    measures = {name: _of_image(name, context) for name in single}
    for network, extractor in (extractors or {}).items():
        measures[f"features_{network}"] = _of_features(extractor)
    return measures


def _of_image(name: str, context: Context) -> Measure:
    def measure(images: Tensor, prompts: Sequence[str]) -> Tensor:
        values = METRICS[name].compute(images, replace(context, prompts=prompts))
        if not values.isfinite().all():
            first = int((~values.isfinite()).nonzero()[0])
            raise UserError(f"{name} is not finite for an image of {prompts[first]!r}")
        return values

    return measure


def _of_features(extractor: FeatureExtractor) -> Measure:
    def measure(images: Tensor, prompts: Sequence[str]) -> Tensor:
        features = extractor(images)
        if not features.isfinite().all():
            raise UserError(f"{extractor.name} gave features that are not finite for an image of {prompts[0]!r}")
        return features

    return measure
