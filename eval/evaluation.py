"""Images measured: by themselves, and against a reference."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffguide.pipelines.errors import UserError, unknown

from .features import FeatureExtractor, load_extractor
from .frechet import frechet_distance, shortage
from .images import Images, open_images, summary
from .metrics import METRICS, Context, Measured, Reference, check_metrics, network_of
from .npz import Npz
from .passes import BATCH_SIZE, Pass, progress_bar, run_pass
from .references import REFERENCES, cached_features, keep_features, load_reference
from .statistics import Moments, Statistics, check_compatible, load_statistics

PIXELS = ["saturation", "contrast", "clipping"]
DISTANCES = ["fid", "kid", "precision", "recall"]


@dataclass(frozen=True)
class Score:
    """One metric of a set of images, with all that it depends on.

    value: the number; spread: see `Measured`. n, reference_n: images on both sides, None where that is unknown or there
    is no other side. network, weights_hash, resize: what gave the features, "" for none.
    """

    metric: str
    value: float
    spread: float | None
    better: str
    definition: str
    n: int
    reference_n: int | None = None
    network: str = ""
    weights_hash: str = ""
    resize: str = ""


@dataclass
class Evaluation:
    """What `evaluate_images` found. notes: what to know of the numbers. skipped: images left out, by kind."""

    images: str
    reference: str | None
    n: int
    scores: list[Score] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str = ""

    def __getitem__(self, metric: str) -> float:
        """The value of a metric. KeyError: it was not measured."""
        return {score.metric: score.value for score in self.scores}[metric]


@dataclass(frozen=True)
class Networks:
    """Which networks metrics use: see `metrics.network_of` and `features.load_extractor`."""

    extractor: str | None = None
    resize: str | None = None
    inception: str | None = None
    clip: str | None = None
    dinov2: str | None = None
    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None

    def load(self, names: Sequence[str]) -> dict[str, FeatureExtractor]:
        """The extractors of the metrics `names`, each once, by what `load_extractor` calls them."""
        wanted = dict.fromkeys(filter(None, (self.of(name) for name in names)))
        return {network: self.load_one(network) for network in wanted}

    def load_one(self, network: str) -> FeatureExtractor:
        """One extractor."""
        inception = network == "inception"
        weights, resize = (self.inception, self.resize) if inception else (None, None)
        return load_extractor(network, weights, self.device, self.dtype, resize=resize)

    def of(self, metric: str) -> str:
        """What `load_extractor` calls the network of a metric, "" for none."""
        return network_of(metric, self.extractor, self.clip, self.dinov2)


def evaluate_images(
    images: Any,
    reference: Any = None,
    metrics: Sequence[str] | None = None,
    *,
    prompts: Sequence[str] | None = None,
    baseline: Any = None,
    reward: Callable[[Tensor, Sequence[str] | None], Tensor] | None = None,
    networks: Networks | None = None,
    batch_size: int = BATCH_SIZE,
    convert: bool = False,
    skip_bad: bool = False,
) -> Evaluation:
    """Measure images.

    Args:
        images: a path or an iterable, see `images.open_images`.
        reference: the same, or the path of a statistics file, or the name of an embedded set; None: no distances.
        metrics: names of METRICS; None: saturation, contrast, clipping; with a reference FID, and KID, precision and
            recall where its images are known; with prompts the CLIPScore.
        prompts: one for each image; None: the texts beside the images.
        baseline: as `images`: what SSIM compares with, image by image, all of it in memory.
        reward: (images, prompts) -> (N,).
        networks: which networks; None: each metric's own.
        batch_size: images a step.
        convert, skip_bad: see `images.Images`.

    Raises:
        UserError: whatever is wrong with what was given, in one line.
    """
    networks = networks or Networks()
    options: dict[str, Any] = {"convert": convert, "skip_bad": skip_bad}
    source = open_images(images, **options)
    side = None if reference is None else open_reference(reference, **options)
    if metrics is None:
        metrics = default_metrics(side, prompts is not None, reward is not None, baseline is not None)
    metrics = check_metrics(metrics)
    check_needs(metrics, side, reward is not None, baseline is not None)
    extractors = networks.load([name for name in metrics if METRICS[name].kind != "image"])
    references = {} if side is None else _measure_reference(side, metrics, networks, extractors, batch_size)

    context = Context(
        prompts=prompts,
        baseline=None if baseline is None else _all_pixels(open_images(baseline, **options)),
        clip=networks.load_one(networks.of("clip_score")) if "clip_score" in metrics else None,
        reward=reward,
    )
    single = [name for name in metrics if METRICS[name].kind == "image"]
    keep = [networks.of(name) for name in metrics if METRICS[name].kind == "set" or "features" in METRICS[name].needs]
    with progress_bar(source.count, "images") as bar:
        done = run_pass(source, extractors, single, context, keep=keep, batch_size=batch_size, progress=bar.update)
    found = Evaluation(source.label, None if side is None else side.label, done.n, skipped=summary(source.bad))
    for name in metrics:
        _add_score(found, name, done, networks.of(name), extractors, references, context)
    return found


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
            hint = unknown("reference", str(reference), REFERENCES)
            raise UserError(f"there is no folder or file {str(reference)!r} for a reference ({hint})")
        if path.suffix.lower() == ".npz":
            with Npz(path) as file:
                statistics_only, has_statistics = "arr_0" not in file, "mu" in file
            if statistics_only:
                return ReferenceSide(repr(str(reference)), statistics=load_statistics(path))
            images = open_images(path, convert=convert, skip_bad=skip_bad)
            return ReferenceSide(images.label, images, load_statistics(path) if has_statistics else None)
    images = open_images(reference, convert=convert, skip_bad=skip_bad)
    return ReferenceSide(images.label, images)


def default_metrics(side: ReferenceSide | None, prompts: bool, reward: bool, baseline: bool) -> list[str]:
    """What is measured if nothing is asked for: all that what is there allows and that needs no large download."""
    distances = [] if side is None else DISTANCES if side.images is not None else ["fid"]
    given = {"clip_score": prompts, "reward": reward, "ssim": baseline}
    return [*distances, *PIXELS, *(name for name, there in given.items() if there)]


def check_needs(metrics: Sequence[str], side: ReferenceSide | None, reward: bool, baseline: bool) -> None:
    """UserError: a metric needs a reference, its images, a reward or a baseline that is not there."""
    for name in metrics:
        metric = METRICS[name]
        if metric.kind == "distance" and side is None:
            raise UserError(f"{name} needs a reference: --reference IMAGES, STATS.npz or {', '.join(REFERENCES)}")
        if "features" in metric.needs and side is not None and side.images is None:
            raise UserError(f"{name} needs the images of the reference; {side.label} holds statistics alone")
        if "reward" in metric.needs and not reward:
            raise UserError("reward needs a reward: --reward CLIP_ID_OR_FOLDER, or a callable in Python")
        if "baseline" in metric.needs and not baseline:
            raise UserError("ssim needs images to compare with: --baseline IMAGES")


def _measure_reference(
    side: ReferenceSide,
    metrics: Sequence[str],
    networks: Networks,
    extractors: dict[str, FeatureExtractor],
    batch_size: int,
) -> dict[str, Reference]:
    """What the reference is to each network, from the cache or a pass over its images."""
    known: dict[str, Reference] = {}
    distances = [name for name in metrics if METRICS[name].kind == "distance"]
    with_features = {networks.of(name) for name in distances if "features" in METRICS[name].needs}
    files: dict[str, Path] = {}
    missing: dict[str, FeatureExtractor] = {}
    for network in dict.fromkeys(networks.of(name) for name in distances):
        extractor = extractors[network]
        if side.statistics is not None and network not in with_features:
            mine = Statistics(side.statistics.mu, side.statistics.sigma, None, *_identity(extractor))
            check_compatible(mine, side.statistics)
            if len(mine.mu) != extractor.dim:
                raise UserError(f"{side.label} has {len(mine.mu)} features, {extractor.name} has {extractor.dim}")
            known[network] = Reference(side.statistics)
            continue
        if side.name is not None:
            files[network], features = cached_features(side.name, *_identity(extractor))
            if features is not None:
                known[network] = Reference(_statistics(features, extractor), features)
                continue
        missing[network] = extractor
    if missing:
        assert side.images is not None
        keep = [name for name in missing if name in with_features or name in files]
        with progress_bar(side.images.count, "reference") as bar:
            done = run_pass(side.images, missing, keep=keep, batch_size=batch_size, progress=bar.update)
        for network, extractor in missing.items():
            statistics = done.moments[network].statistics(*_identity(extractor))
            known[network] = Reference(statistics, done.features.get(network))
            if network in files:
                keep_features(files[network], done.features[network])
    return known


def _add_score(
    found: Evaluation,
    name: str,
    done: Pass,
    network: str,
    extractors: dict[str, FeatureExtractor],
    references: dict[str, Reference],
    context: Context,
) -> None:
    metric, extractor = METRICS[name], extractors.get(network) or (context.clip if network else None)
    reference_n = None
    if metric.kind == "image":
        measured = Measured(float(done.values[name].double().mean()))
    elif metric.kind == "set":
        measured = metric.compute(done.features[network], extractor)
    elif "features" in metric.needs:
        measured = metric.compute(done.features[network], references[network])
        reference_n = len(references[network].features)  # type: ignore[arg-type]
    else:
        assert extractor is not None
        mine, theirs = done.moments[network].statistics(*_identity(extractor)), references[network].statistics
        measured, reference_n = Measured(frechet_distance(mine, theirs)), theirs.n
        unsaid = "the reference does not say which network and resize it is of" if theirs.extractor is None else None
        found.notes += [f"{name}: {note}" for note in (shortage(mine, theirs), unsaid) if note]
    identity = _identity(extractor) if extractor else ("", "", "")
    found.scores.append(Score(name, *measured, metric.better, metric.definition, done.n, reference_n, *identity))


def _identity(extractor: FeatureExtractor) -> tuple[str, str, str]:
    return extractor.name, extractor.weights_hash, extractor.resize


def _statistics(features: Tensor, extractor: FeatureExtractor) -> Statistics:
    moments = Moments()
    moments.update(features)
    return moments.statistics(*_identity(extractor))


def _all_pixels(images: Images) -> Tensor:
    parts = [group for batch in images.batches(BATCH_SIZE) for group in batch.groups()]
    if len({part.shape[1:] for part in parts}) > 1:
        raise UserError(f"{images.label}: the images of a baseline must be of one size")
    pixels = torch.cat(parts)
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
