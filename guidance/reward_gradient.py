"""A reward as a function of x0 that can be differentiated, whatever mode the caller is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .basis import Scalar
from .step import Step
from .tensors import precise


@contextmanager
def gradients() -> Iterator[None]:
    """Gradients on, whatever the caller has; ValueError where a network was loaded so that it has none."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    except RuntimeError as error:
        if "nference tensor" not in str(error):
            raise
        raise ValueError(
            "the decoder, the denoiser or the reward was loaded inside torch.inference_mode(), where gradients are "
            "impossible: load it outside"
        ) from error


def ordinary(x: Scalar) -> Scalar:
    """`x` as a copy: nothing that was made in inference mode can be differentiated."""
    return x.detach().clone() if isinstance(x, Tensor) else x


def scored(reward: Any, step: Step, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """x0 (B, ...) -> (B,): the reward of what x0, in `dtype`, decodes to; in the space "latent", of x0 itself.

    ValueError: there are no prompts, or there is no decoder, where the reward needs them; a result without gradient.
    """
    prompts, decode = list(step.prompts) or None, step.decode
    if prompts is None and reward.needs_prompts:
        raise ValueError(f"reward {reward.name!r} needs prompts, and the pipeline was called without texts")
    if decode is None and reward.space != "latent":
        raise ValueError(f"reward {reward.name!r} scores images, and this pipeline has no decoder")

    def score(x0: Tensor) -> Tensor:
        seen = x0 if decode is None or reward.space == "latent" else decode(x0.to(dtype))
        if torch.is_grad_enabled() and not seen.requires_grad:
            raise ValueError(
                "the decoder of this pipeline gives images without gradient: use another, or a latent reward"
            )
        found = reward(seen, prompts)
        if torch.is_grad_enabled() and not found.requires_grad:
            raise ValueError(f"reward {reward.name!r} gave a score without gradient: take the best of n pictures by it")
        return precise(found).to(x0.device)  # a pipeline may be spread over several

    return score


def bent(step: Step, z: Tensor, a: Scalar, b: Scalar, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A direction (B, ...) of x0 -> the same times the Jacobian of x0 = a z + b prediction(z), the conditional one.

    One evaluation of the denoiser, in `dtype`, however often it is used. ValueError: there is none to be had.
    """
    if step.evaluate is None:
        raise ValueError("through_denoiser needs a pipeline whose denoiser can be asked again; leave it out here")
    z = z.detach().requires_grad_()
    prediction = step.evaluate(z.to(dtype))
    step.extra_evaluations += 1
    if not prediction.requires_grad:
        raise ValueError("the denoiser gave a prediction without gradient; leave through_denoiser out here")
    x0 = a * z + b * precise(prediction)
    return lambda direction: torch.autograd.grad(x0, z, direction, retain_graph=True)[0]
