"""One more evaluation of the denoiser, past all hooks, for another model input."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from torch import Tensor

from .calls import Arguments, Call, prediction_of, sample_of
from .freezing import freeze


def evaluated(call: Call, module: Any, given: Arguments, latents: Tensor, where: Any) -> Tensor:
    """What the denoiser predicts for `latents` in place of those in its model input; all else as `given`.

    where: the part of model input and prediction that is latents, as an index. Until the call ends, the parameters of
    the denoiser take no gradients.
    """
    call.undo.append(freeze(module))
    args, kwargs = given
    sample = sample_of(args, kwargs)
    if latents.shape != sample.shape:
        changed = sample.clone()
        changed[where][tuple(slice(0, size) for size in latents.shape)] = latents.to(sample.dtype)
    else:
        changed = latents.to(sample.dtype)
    if args:
        args = (changed, *args[1:])
    else:
        kwargs = {name: changed if value is sample else value for name, value in kwargs.items()}
    cached = module.cache_context("reward") if hasattr(module, "cache_context") else nullcontext()
    with cached:
        return prediction_of(module.forward(*args, **kwargs))[where]
