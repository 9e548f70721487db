"""Which part of what a denoiser is given and returns is latents, and so for a rule to see.

Editing pipelines append reference images to the latents, image-to-video ones give the first frame. The pipeline throws
away what the model says about those; in a norm or a projection they would weigh as much as the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .layouts import Layout
from .replacing import replaced


def region(pipe: Any, layout: Layout, count: int | None, frame: int = 1) -> Any:
    """Where the latents are, the same in model input and prediction, as an index; `...` is everywhere.

    count: how many entries along dimension 1 are latents, as `watch_latents` found. frame: how many a frame has along
    `layout.first_frame`.
    """
    if layout.tokens and count is not None:
        return (slice(None), slice(0, count) if layout.tokens == "first" else slice(-count, None))
    if layout.first_frame and _replaces_first_frame(pipe):
        return (*[slice(None)] * layout.first_frame, slice(frame, None))
    return ...


def _replaces_first_frame(pipe: Any) -> bool:
    """Whether the given frame is one of the latents. HunyuanVideo and Wan may have it as more channels instead."""
    given = getattr(getattr(pipe, "transformer", None), "config", {}).get("image_condition_type")
    return given != "latent_concat" and bool(pipe.config.get("expand_timesteps", True))


def inside(tensor: Tensor, where: Any) -> Tensor:
    """A tensor in the region `where`; itself, without a call of torch, where that is everything."""
    return tensor if where is ... else tensor[where]


def latents_in(sample: Tensor, prediction: Tensor, where: Any) -> Tensor:
    """The latents in a model input: in its region `where`, and as large as `prediction`, which is that in the region.

    Conditions come after the latents, as more channels. Outside the region a prediction may have less than the input:
    a model that remembers its reference images says nothing of them.
    """
    latents = inside(sample, where)
    if latents.shape == prediction.shape:
        return latents
    return latents[tuple(slice(0, size) for size in prediction.shape)]


def watch_latents(pipe: Any, report: Callable[[int], None]) -> Callable[[], None]:
    """Let `pipe.prepare_latents` report how many entries along dimension 1 it makes; returns what undoes this."""
    native = pipe.prepare_latents

    def prepare(*args: Any, **kwargs: Any) -> Any:
        prepared = native(*args, **kwargs)
        report((prepared[0] if isinstance(prepared, tuple) else prepared).shape[1])
        return prepared

    return replaced(pipe, "prepare_latents", prepare)
