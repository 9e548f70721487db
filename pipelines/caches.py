"""The caches of diffusers, which answer with what a denoiser computed at an earlier step."""

from __future__ import annotations

from typing import Any

from .layouts import Layout

CACHES = (
    "faster_cache_denoiser",
    "fbc_leader_block_hook",
    "mag_cache_leader_block_hook",
    "pyramid_attention_broadcast",
    "sea_cache_root",
    "taylorseer_cache",
    "text_kv_cache_transformer",
)
"""Their hooks."""


def keeps_the_batch(pipe: Any, layout: Layout) -> bool:
    """Whether a cache of diffusers is at work: it holds tensors of all rows, so that none may be left out or come back.

    FasterCache cuts the unconditional half out itself.
    """
    denoisers = [denoiser for name in layout.denoisers if (denoiser := getattr(pipe, name, None)) is not None]
    registries = [getattr(module, "_diffusers_hook", None) for each in denoisers for module in each.modules()]
    return any(registry.get_hook(name) is not None for registry in registries if registry for name in CACHES)
