"""What images are measured against, and what that is to each network."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffguide.pipelines.errors import UserError

from .features import FeatureExtractor
from .metric_functions import Reference
from .metrics import METRICS, unmeasured
from .networks import Networks
from .npz import Npz
from .passes import BATCH_SIZE, progress_bar, run_pass
from .references import REFERENCES, cache_folder, cached_features, keep_features, load_reference, no_reference
from .sources import Images, open_images
from .statistics import Moments, Statistics, check_compatible, load_statistics

ROLE = ", the reference,"


@dataclass(frozen=True)
class ReferenceSide:
    """What images are measured against: images, or statistics alone. name: of an embedded set."""

    label: str
    images: Images | None = None
    statistics: Statistics | None = None
    name: str | None = None


def open_reference(reference: Any, *, convert: bool = False, skip_bad: bool = False) -> ReferenceSide:
    """A reference from a path, an iterable or the name of an embedded set. UserError: it is none of these."""
    if isinstance(reference, Statistics):
        return ReferenceSide("the statistics", statistics=reference)
    if isinstance(reference, str) and reference in REFERENCES:
        return ReferenceSide(f"{reference!r}", load_reference(reference), name=reference)
    if isinstance(reference, (str, os.PathLike)):
        path = Path(reference).expanduser()
        if not path.exists():
            raise no_reference(str(reference))
        if path.suffix.lower() == ".npz":
            with Npz(path) as file:
                statistics_only, has_statistics = "arr_0" not in file, "mu" in file
            if statistics_only:
                return ReferenceSide(repr(str(reference)), statistics=load_statistics(path))
            images = open_images(path, convert=convert, skip_bad=skip_bad)
            return ReferenceSide(images.label, images, load_statistics(path) if has_statistics else None)
    images = open_images(reference, convert=convert, skip_bad=skip_bad)
    return ReferenceSide(images.label, images)


def check_needs(metrics: Sequence[str], side: ReferenceSide | None, reward: bool, baseline: bool) -> None:
    """UserError: a metric needs a reference, its images, more of them, a reward or a baseline that is not there.

    Or a reward or a baseline is there that no metric needs.
    """
    for what, measures, given in (("a reward", "reward", reward), ("a baseline", "ssim", baseline)):
        if given and measures not in metrics:
            raise unmeasured(what, measures)
    for name in metrics:
        metric = METRICS[name]
        if metric.kind == "distance":
            if side is None:
                raise UserError(f"{name} needs a reference: --reference IMAGES, STATS.npz or {', '.join(REFERENCES)}")
            if side.statistics is None or "features" in metric.needs:
                if side.images is None:
                    raise UserError(f"{name} needs the images of the reference; {side.label} holds statistics alone")
                side.images.check_enough(name, metric.fewest, ROLE)
        if "reward" in metric.needs and not reward:
            raise UserError("reward needs a reward: --reward NAME, or a callable in Python")
        if "baseline" in metric.needs and not baseline:
            raise UserError("ssim needs images to compare with: --baseline IMAGES")


def measure_reference(
    side: ReferenceSide,
    metrics: Sequence[str],
    networks: Networks,
    extractors: dict[str, FeatureExtractor],
    batch_size: int = BATCH_SIZE,
) -> dict[str, Reference]:
    """What the reference is to each network of the distances among `metrics`, by the networks' names.

    From its statistics, from the cache, or from a pass over its images. Statistics that a file has beside its images
    are what FID takes, as they may be of more images. UserError: bad images, or statistics of another network, weights
    or resize where there are no images.
    """
    distances = [name for name in metrics if METRICS[name].kind == "distance"]
    used = dict.fromkeys(map(networks.of, distances))
    with_features = {networks.of(name) for name in distances if "features" in METRICS[name].needs}
    stated = {name: own for name in used if (own := _stated(side, extractors[name])) is not None}
    known = {name: Reference(statistics) for name, statistics in stated.items() if name not in with_features}
    files: dict[str, Path] = {}
    if side.name is not None:
        for network in used:
            dtype = getattr(extractors[network], "dtype", torch.float32)
            files[network], features = cached_features(side.name, *identity_of(extractors[network]), dtype)
            if features is not None:
                known[network] = Reference(_statistics(features, extractors[network]), features)
    missing = {network: extractors[network] for network in used if network not in known}
    if not missing:
        return known
    assert side.images is not None
    if files:
        print(f"diffguide: {side.label} is measured once, and kept in {cache_folder()}", file=sys.stderr)
    with progress_bar(side.images.count, "reference") as bar:
        keep = [*with_features, *files]
        done = run_pass(side.images, missing, keep=keep, batch_size=batch_size, progress=bar.update)
    for name in distances:
        if networks.of(name) in (missing if "features" in METRICS[name].needs else missing.keys() - stated.keys()):
            side.images.check_enough(name, METRICS[name].fewest, ROLE, done.n)
    for network, extractor in missing.items():
        statistics = stated.get(network) or done.moments[network].statistics(*identity_of(extractor))
        known[network] = Reference(statistics, done.features.get(network))
        if network in files:
            keep_features(files[network], done.features[network])
    return known


def _stated(side: ReferenceSide, extractor: FeatureExtractor) -> Statistics | None:
    """The statistics that the reference states, if they are of this network. UserError: neither they nor images are."""
    try:
        if side.statistics is not None:
            check_fits(side, extractor)
    except UserError:
        if side.images is None:
            raise
        return None
    return side.statistics


def check_fits(side: ReferenceSide, extractor: FeatureExtractor) -> None:
    """UserError: the reference's statistics are of another network, weights or resize."""
    assert side.statistics is not None
    check_compatible(
        Statistics(side.statistics.mu, side.statistics.sigma, None, *identity_of(extractor)), side.statistics
    )
    if len(side.statistics.mu) != extractor.dim:
        raise UserError(f"{side.label} has {len(side.statistics.mu)} features, {extractor.name} has {extractor.dim}")


def identity_of(extractor: FeatureExtractor) -> tuple[str, str, str]:
    """Network, weights and resize, in the order of `Statistics`."""
    return extractor.name, extractor.weights_hash, extractor.resize


def _statistics(features: Tensor, extractor: FeatureExtractor) -> Statistics:
    moments = Moments()
    moments.update(features)
    return moments.statistics(*identity_of(extractor))
