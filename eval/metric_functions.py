"""How each metric is computed, and what it is given. Importing it imports no torch.

    distance   (features, reference) -> Measured          a set of images against a reference; `frechet` has the
                                                          statistics of features
    set        (features, extractor) -> Measured          a set of images alone
    image      (images, context) -> (N,) tensor           each image by itself; the mean is reported

Features are (n, d), images (N, 3, H, W) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from diffguide.pipelines.errors import UserError

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


def frechet(statistics: Statistics, reference: Reference) -> Measured:
    """From means and covariances alone."""
    from .frechet import frechet_distance

    return Measured(frechet_distance(statistics, reference.statistics))


def kid(features: Tensor, reference: Reference) -> Measured:
    """Mean and standard deviation over subsets."""
    from . import kernels

    assert reference.features is not None
    return Measured(*kernels.kid(features, reference.features))


def cmmd(features: Tensor, reference: Reference) -> Measured:
    """CLIP-MMD."""
    from . import kernels

    assert reference.features is not None
    return Measured(kernels.cmmd(features, reference.features))


def precision(features: Tensor, reference: Reference) -> Measured:
    """Share of the images within the reference's manifold."""
    from .manifold import coverage

    assert reference.features is not None
    return Measured(coverage(features, reference.features))


def recall(features: Tensor, reference: Reference) -> Measured:
    """Share of the reference within the images' manifold."""
    from .manifold import coverage

    assert reference.features is not None
    return Measured(coverage(reference.features, features))


def inception_score(features: Tensor, extractor: Any) -> Measured:
    """From the logits of the network's last layer. UserError: its weights lack it."""
    from . import kernels

    check_classifier(extractor)
    return Measured(*kernels.inception_score(features @ extractor.classifier.to(features).T))


def check_classifier(extractor: Any) -> None:
    """UserError: the weights lack the last layer."""
    if extractor.classifier is None:
        raise UserError(
            "the Inception Score needs the network's last layer, which these weights lack: give torch-fidelity's or "
            "pytorch-fid's checkpoint with --inception PATH"
        )


def saturation(images: Tensor, context: Context) -> Tensor:
    """Of HSV."""
    from . import pixels

    return pixels.saturation(images)


def contrast(images: Tensor, context: Context) -> Tensor:
    """RMS."""
    from . import pixels

    return pixels.contrast(images)


def clipping(images: Tensor, context: Context) -> Tensor:
    """Share of values at the ends."""
    from . import pixels

    return pixels.clipping(images)


def clip_score(images: Tensor, context: Context) -> Tensor:
    """100 max(cos(image, prompt), 0)."""
    from torch.nn.functional import cosine_similarity

    image, text = context.clip.embed_middle(images), context.clip.embed_text(context.prompts)
    return 100 * cosine_similarity(image, text).clamp(min=0)


def reward(images: Tensor, context: Context) -> Tensor:
    """What the reward gives. UserError: what it gives is no reward, or it needs prompts."""
    from torch import no_grad

    assert context.reward is not None
    try:
        with no_grad():
            return context.reward(images, context.prompts)
    except ValueError as error:
        raise UserError(str(error)) from error


def ssim(images: Tensor, context: Context) -> Tensor:
    """Against the baseline. UserError: it is of another size."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    baseline = context.baseline
    if baseline is None or baseline.shape != images.shape:
        shapes = f"{tuple(images.shape)} against {None if baseline is None else tuple(baseline.shape)}"
        raise UserError(f"SSIM needs a baseline image of the same size for each image: {shapes}")
    # A batch of one comes back without its dimension.
    return structural_similarity_index_measure(images, baseline, data_range=1.0, reduction="none").reshape(-1)
