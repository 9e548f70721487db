"""Images measured: by themselves, and against a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffguide.guidance import Reward, as_reward
from diffguide.guidance.reward import CallableReward
from diffguide.pipelines.errors import UserError

from .against import ReferenceSide, check_needs, identity_of, measure_reference, open_reference
from .features import FeatureExtractor
from .frechet import shortage
from .images import Images, summary
from .metric_functions import Context, Measured, Reference, check_classifier
from .metrics import METRICS, check_metrics
from .networks import Networks
from .passes import BATCH_SIZE, Pass, check_pairs, progress_bar, run_pass
from .sources import open_images

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
        images: a path or an iterable, see `sources.open_images`.
        reference: the same, or statistics, or the path of a file of them, or the name of an embedded set; None: no
            distances.
        metrics: names of METRICS; None: saturation, contrast, clipping; with a reference FID, and KID, precision and
            recall where its images are known; with prompts, a reward or a baseline the CLIPScore, the reward, SSIM.
        prompts: one for each image; None: the texts beside the images.
        baseline: as `images`: what SSIM compares with, image by image, all of it in memory.
        reward: anything that `diffguide.guidance.as_reward` takes: (images, prompts) -> (N,), or of images alone.
        networks: which networks; None: each metric's own.
        batch_size: images a step, 1 or more.
        convert, skip_bad: see `images.Images`.

    Raises:
        UserError: whatever is wrong with what was given, in one line.
    """
    if batch_size < 1:
        raise UserError(f"a batch has one image at least, not {batch_size}")
    if isinstance(metrics, str):
        raise UserError(f"metrics is a list, not {metrics!r}")
    networks = networks or Networks()
    if reward is not None:
        reward, networks = _as_reward(reward), replace(networks, reward=None)
    options: dict[str, Any] = {"convert": convert, "skip_bad": skip_bad}
    source = open_images(images, **options)
    side = None if reference is None else open_reference(reference, **options)
    if metrics is None:
        rewarded = reward is not None or networks.reward is not None
        metrics = default_metrics(side, prompts is not None, rewarded, baseline is not None)
    metrics = check_metrics(metrics)
    check_needs(metrics, side, reward is not None or networks.reward is not None, baseline is not None)
    _check_enough(source, metrics)
    if networks.resize and "inception" not in map(networks.of, metrics):
        raise UserError(f"none of the metrics is by inception, whose resize {networks.resize!r} was chosen")
    single = [name for name in metrics if METRICS[name].kind == "image"]
    extractors = networks.load([name for name in metrics if name not in single])
    if "is" in metrics:
        check_classifier(extractors[networks.of("is")])
    seen_by: dict[str, Any] = {**networks.load(single)}
    context = Context(
        prompts=prompts,
        baseline=None if baseline is None else _all_pixels(open_images(baseline, **options)),
        clip=seen_by[networks.of("clip_score")] if "clip_score" in single else None,
        reward=seen_by[networks.of("reward")] if networks.reward and "reward" in single else reward,
    )
    keep = [networks.of(name) for name in metrics if METRICS[name].kind == "set" or "features" in METRICS[name].needs]
    check_pairs(source, context)
    # The reference comes first: it may be no good, or be known, and then costs no time.
    references = {} if side is None else measure_reference(side, metrics, networks, extractors, batch_size)
    with progress_bar(source.count, "images") as bar:
        done = run_pass(source, extractors, single, context, keep=keep, batch_size=batch_size, progress=bar.update)
    _check_enough(source, metrics, done.n)
    found = Evaluation(source.label, None if side is None else side.label, done.n, skipped=summary(source.bad))
    for name in metrics:
        _add_score(found, name, done, networks.of(name), {**seen_by, **extractors}, references)
    return found


def _check_enough(images: Images, metrics: Sequence[str], n: int | None = None) -> None:
    for name in metrics:
        images.check_enough(name, METRICS[name].fewest, ", which is measured,", n)


def _as_reward(reward: Any) -> Reward:
    try:
        made = as_reward(reward, needs_prompts=False)
    except ValueError as error:
        raise UserError(str(error)) from error
    if isinstance(made, CallableReward) and made is not reward:
        made.checks_finite = False  # the pass does, and names the image
    return made


def default_metrics(side: ReferenceSide | None, prompts: bool, reward: bool, baseline: bool) -> list[str]:
    """What is measured if nothing is asked for: all that what is there allows and that needs no large download."""
    distances = [] if side is None else DISTANCES if side.images is not None else ["fid"]
    given = {"clip_score": prompts, "reward": reward, "ssim": baseline}
    return [*distances, *PIXELS, *(name for name, there in given.items() if there)]


def _add_score(
    found: Evaluation,
    name: str,
    done: Pass,
    network: str,
    extractors: dict[str, FeatureExtractor],
    references: dict[str, Reference],
) -> None:
    metric, extractor = METRICS[name], extractors.get(network)
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
        mine, theirs = done.moments[network].statistics(*identity_of(extractor)), references[network].statistics
        measured, reference_n = metric.compute(mine, references[network]), theirs.n
        unsaid = "the reference does not say which network and resize it is of" if theirs.extractor is None else None
        found.notes += [f"{name}: {note}" for note in (shortage(mine, theirs), unsaid) if note]
    identity = identity_of(extractor) if extractor else ("", "", "")
    found.scores.append(Score(name, *measured, metric.better, metric.definition, done.n, reference_n, *identity))


def _all_pixels(images: Images) -> Tensor:
    images.check_order("others")
    parts = [group for batch in images.batches(BATCH_SIZE) for group in batch.groups()]
    if images.bad:
        raise UserError(f"{images.label}: {summary(images.bad)}, which cannot be left out of a baseline")
    if len({part.shape[1:] for part in parts}) > 1:
        raise UserError(f"{images.label}: the images of a baseline must be of one size")
    pixels = torch.cat(parts)
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
