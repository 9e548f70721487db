"""One pass over images: the features of every network and the values of every metric of single images."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffguide.pipelines.errors import UserError, amount

from .features import Extractor, FeatureExtractor
from .images import Batch, Images, summary
from .metric_functions import Context
from .metrics import METRICS
from .own_prompts import OwnPrompt
from .statistics import Moments
from .workers import PART, side_by_side

BATCH_SIZE = 32


@dataclass
class Pass:
    """What came out, in the order of the images.

    features: by the networks' names as asked for, (n, d) float32 on the CPU, where they are kept. moments: of every
    network. values: by metric, (n,).
    """

    n: int = 0
    features: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)


def run_pass(
    images: Images,
    extractors: Mapping[str, FeatureExtractor],
    metrics: Sequence[str] = (),
    context: Context | None = None,
    *,
    keep: bool | Sequence[str] = True,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], Any] | None = None,
) -> Pass:
    """Run networks and metrics over images.

    Args:
        images: the source; its captions are the prompts where `context` has none.
        extractors: by any name.
        metrics: names of metrics of kind "image".
        context: what they need, for all images together.
        keep: whether features are kept (4 d bytes an image), or of which networks; moments always are (8 d^2 bytes).
        batch_size: images a step; nothing depends on it but speed and memory.
        progress: called with the number of images of each batch.

    Raises:
        UserError: bad images (see `Images`), not as many as prompts or baseline images or not in their order, or
            features or values that are not finite.
    """
    context = context or Context()
    paired = check_pairs(images, context)
    kept: dict[str, list[Tensor]] = {name: [] for name in extractors if keep is True or (keep and name in keep)}
    values: dict[str, list[Tensor]] = {name: [] for name in metrics}
    result = Pass(moments={name: Moments() for name in extractors})
    for batch, found in _embedded(images.batches(batch_size), extractors):
        for name, extractor in extractors.items():
            features = found[name]
            if not features.isfinite().all():
                row = int((~features.isfinite()).any(1).nonzero()[0])
                raise UserError(f"{extractor.name} gave features that are not finite for {batch.names[row]!r}")
            result.moments[name].update(features)
            if name in kept:
                kept[name].append(features.cpu())
        if images.bad and paired:
            what = " and ".join(paired)
            raise UserError(f"{images.label}: {summary(images.bad)}, which cannot be left out where images have {what}")
        if metrics:
            _measure(batch, metrics, context, result.n, values)
        result.n += len(batch)
        if progress:
            progress(len(batch))
    for name, count in paired.items():
        if count != result.n:
            raise _unpaired(name, count, result.n, images.label)
    result.features = {name: torch.cat(parts) for name, parts in kept.items()}
    result.values = {name: torch.cat(parts) for name, parts in values.items()}
    return result


def check_pairs(images: Images, context: Context) -> dict[str, int]:
    """How many prompts and baseline images go with the images one by one, by these names; none where there are none.

    UserError: they are not as many, as far as is known before any is read, or not in their order.
    """
    paired = {name: len(given) for name in ("prompts", "baseline") if (given := getattr(context, name)) is not None}
    for name, count in paired.items():
        images.check_order(f"the {name}")
        if images.count is not None and images.count != count:
            raise _unpaired(name, count, images.count, images.label)
    return paired


def _unpaired(name: str, count: int, n: int, label: str) -> UserError:
    what = name.removesuffix("s") if count == 1 else name
    return UserError(f"{count} {what} for {amount(n, 'image')} of {label}: they must be as many")


def _embedded(
    batches: Iterator[Batch], extractors: Mapping[str, FeatureExtractor]
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """Each batch with the features of every network; some batches are read ahead where networks run side by side."""
    shared = {name: e for name, e in extractors.items() if isinstance(e, Extractor) and e.concurrent}
    ahead: deque[Batch] = deque()

    def parts() -> Iterator[list[Batch]]:
        for batch in batches:
            ahead.append(batch)
            yield batch.parts(PART) if shared else []

    def embed(part: Batch) -> dict[str, Tensor]:
        groups = part.groups()
        return {name: _features(extractor, groups) for name, extractor in shared.items()}

    threads = torch.get_num_threads() if shared else 1
    with closing(side_by_side(embed, parts(), threads)) as results:
        for done in results:
            batch = ahead.popleft()
            found = {name: torch.cat([part[name] for part in done]) for name in shared}
            groups = batch.groups() if len(shared) < len(extractors) else []
            found |= {name: _features(e, groups) for name, e in extractors.items() if name not in shared}
            yield batch, found


def _features(extractor: FeatureExtractor, groups: list[Tensor]) -> Tensor:
    if isinstance(extractor, Extractor) and len(groups) > 1:  # images of several sizes are one batch once resized
        return extractor.embed(torch.cat([extractor.prepare(group) for group in groups]))
    return torch.cat([extractor(group) for group in groups])


def _measure(
    batch: Batch,
    metrics: Sequence[str],
    context: Context,
    start: int,
    values: dict[str, list[Tensor]],
) -> None:
    """Add the values of a batch, whose first image is number `start`."""
    prompts = context.prompts
    for name, own, given in zip(batch.names, batch.captions, prompts[start:] if prompts is not None else ()):
        if isinstance(own, OwnPrompt) and own != given:
            raise UserError(
                f"prompt {given!r} is given for {name!r}, which was made of {own!r}: prompts go by the order of names; "
                "leave them out, and each picture counts with its own"
            )
    if prompts is None and all(caption is not None for caption in batch.captions):
        prompts = batch.captions  # type: ignore[assignment]
        offset = 0
    else:
        offset = start
    for group in batch.groups():
        size = len(group)
        part = replace(
            context,
            prompts=None if prompts is None else prompts[offset : offset + size],
            baseline=None if context.baseline is None else context.baseline[start : start + size],
        )
        offset, start = offset + size, start + size
        pixels = group.float() / 255 if group.dtype == torch.uint8 else group
        for name in metrics:
            for need in METRICS[name].needs:
                if getattr(part, need) is None:
                    raise UserError(f"{name} needs {need}: there are none for {batch.names[0]!r}")
                if need == "prompts" and len(part.prompts or ()) < size:
                    raise UserError(f"{name} needs a prompt for each image: there are {len(prompts or ())}, too few")
            found = METRICS[name].compute(pixels, part).float().cpu()
            if not found.isfinite().all():
                raise UserError(f"{name} is not finite for an image from {batch.names[0]!r} on")
            values[name].append(found)


def progress_bar(total: int | None, label: str) -> Any:
    """A tqdm bar on standard error, where that is a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit="image", desc=label, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)
