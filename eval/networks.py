"""The names of the networks that give features. Imports nothing, for the command line."""

from __future__ import annotations

from diffguide.pipelines.errors import UserError, unknown

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
