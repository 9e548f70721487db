"""Which networks give features, and which metric uses which one. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffguide.pipelines.errors import UserError, unknown

from .metrics import METRICS

if TYPE_CHECKING:
    import torch

    from .features import FeatureExtractor

NETWORKS = {
    "inception": "Inception-2015-12-05, 2048 features; FID, KID, IS, precision and recall",
    "efficientnet-lite0": "EfficientNet-Lite0 trained on ImageNet, 1280 features; small and quick",
    "dinov2": "DINOv2 (dinov2:ID_OR_FOLDER; facebook/dinov2-large), its class token",
    "clip": "CLIP image tower (clip:ID_OR_FOLDER; the embedded emoji-clip), projected",
}
"""Name -> what it is."""


def check_extractor(name: str, weights: str | None = None, resize: str | None = None) -> tuple[str, str | None]:
    """The network and the weights that `name` and `weights` ask for.

    UserError: no such network, weights given twice or for one that has only its own, or a resize for another network
    than Inception.
    """
    network, _, part = name.partition(":")
    if network not in NETWORKS:
        raise unknown("extractor", name, NETWORKS)
    if part and network in ("inception", "efficientnet-lite0"):
        raise UserError(f"extractor {network!r} has one set of weights: write {network}, not {name!r}")
    if part and weights:
        raise UserError(f"the weights of {network!r} are given twice: {part!r} and {weights!r}")
    if network == "efficientnet-lite0" and weights:
        raise UserError("efficientnet-lite0 has one set of weights")
    if resize is not None:
        from .resize import check_resize

        check_resize(resize)
        if network != "inception":
            raise UserError(f"a resize can be chosen for inception only: {network!r} has its own")
    return network, part or weights


@dataclass(frozen=True)
class Networks:
    """Which networks metrics use.

    extractor: what stands in for Inception in KID, precision and recall. resize: see `resize.RESIZES`. inception: a
    checkpoint. clip, dinov2: hub id or folder for the metrics of these networks; reward: a name as
    `pipelines.load_reward` takes it. device, dtype: see `features.load_extractor`. None: each one's own.
    """

    extractor: str | None = None
    resize: str | None = None
    inception: str | None = None
    clip: str | None = None
    dinov2: str | None = None
    reward: str | None = None
    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None

    def of(self, metric: str) -> str:
        """What `load_extractor` calls the network of a metric, "" for none."""
        row = METRICS[metric]
        if row.any_extractor and self.extractor:
            return self.named(self.extractor)
        if metric == "reward":
            return f"reward:{self.reward}" if self.reward else ""
        return self.named(row.extractor)

    def named(self, network: str) -> str:
        """A network that was asked for by its kind alone, with the model that was chosen for it."""
        chosen = {"clip": self.clip, "dinov2": self.dinov2}.get(network)
        return f"{network}:{chosen}" if chosen else network

    def load(self, metrics: Sequence[str]) -> dict[str, FeatureExtractor]:
        """The extractors of these metrics, each once, by what `load_extractor` calls them. UserError as it."""
        wanted = dict.fromkeys(filter(None, map(self.of, metrics)))
        return {network: self.load_one(network) for network in wanted}

    def load_one(self, network: str) -> Any:
        """One extractor, or the reward, which stands beside them under a name of the same form."""
        from .features import load_extractor

        kind, _, name = network.partition(":")
        if kind == "reward":
            from .rewards import NamedReward

            return NamedReward(name, self.device, self.dtype)
        inception = network == "inception"
        weights, resize = (self.inception, self.resize) if inception else (None, None)
        return load_extractor(network, weights, self.device, self.dtype, resize=resize)
