"""Caches, of diffusers and others, which answer with what a denoiser computed at an earlier step."""

from __future__ import annotations

from typing import Any

from torch import nn

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
OTHERS = ("_hf_hook", "_orig_mod")
"""What modules have that get a `forward` of their own from accelerate, or from torch.compile."""


def keeps_the_batch(pipe: Any, layout: Layout) -> bool:
    """Whether a cache is at work: it holds tensors of all rows, so that none may be left out or come back.

    Of others than diffusers' (DeepCache) what can be seen is that a part has a `forward` of its own, which offloading
    and compiling give it, too. FasterCache cuts the unconditional half out itself.
    """
    denoisers = [denoiser for name in layout.denoisers if (denoiser := getattr(pipe, name, None)) is not None]
    return any(_is_cached(module, module is each) for each in denoisers for module in each.modules())


def _is_cached(module: nn.Module, whole: bool) -> bool:
    registry = getattr(module, "_diffusers_hook", None)
    if registry:
        return any(registry.get_hook(name) is not None for name in CACHES)
    native = type(module).forward.__get__(module)  # which also stays on a module that a hook was taken off
    is_other = vars(module).get("forward", native) != native
    return not whole and is_other and not any(hasattr(module, name) for name in OTHERS)
