"""The few operations on tensors that rules are made of, for rules that are written on tensors.

A scalar per sample has the shape (B, 1, ...), or, for a single sample, may have no dimension: either can be multiplied
with a tensor (B, ...). At small latents what counts is how often torch is called. There a Python number as an operand
costs twice what a tensor does; as an `alpha`, a `value` or a bound it costs nothing.
"""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

PRECISE = (torch.float32, torch.float64)
TINY = torch.finfo(torch.float32).tiny
LARGE = 1 << 16
"""Elements of a sample from which an inner product of its own is faster than one for the whole batch, on a CPU; for
those of a tensor with itself, four times as many.
"""


def precise(tensor: Tensor) -> Tensor:
    """The tensor in the dtype that rules calculate in: float32, or float64 where it is that already."""
    return tensor if tensor.dtype in PRECISE else tensor.float()


def restored(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor in the dtype of another. `Tensor.to` costs half an addition even where there is nothing to do."""
    return tensor if tensor.dtype == like.dtype else tensor.to(like.dtype)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; in float32 where that has no float64, as Apple's GPUs."""
    return tensor.to(device, torch.float32 if device.type == "mps" and tensor.dtype == torch.float64 else tensor.dtype)


@overload
def per_sample(scalar: Tensor, like: Tensor) -> Tensor: ...
@overload
def per_sample(scalar: Tensor | float, like: Tensor) -> Tensor | float: ...
def per_sample(scalar: Tensor | float, like: Tensor) -> Tensor | float:
    """A number, or one per sample (B,) or (B, 1, ...), as it multiplies a tensor (B, ...)."""
    if isinstance(scalar, Tensor) and scalar.ndim == 1:
        return scalar.view(-1, *[1] * (like.ndim - 1))
    return scalar


def spare(memory: Tensor | None, *given: Tensor) -> Tensor | None:
    """Memory for a result that is made from it and what is given; None where a gradient may need what it holds."""
    if memory is None or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (memory, *given))):
        return None
    return memory


def inner(first: Tensor, second: Tensor) -> Tensor:
    """Inner products of two tensors (B, ...), a scalar per sample, never in a precision below their own."""
    if _alone(first):
        return first.reshape(-1).dot(second.reshape(-1))
    return _batched((first, second), ((0, 1),))[0]


def squared_norm(tensor: Tensor) -> Tensor:
    """The inner product of a tensor (B, ...) with itself, a scalar per sample."""
    if _alone(tensor):
        x = tensor.reshape(-1)
        return x.dot(x)
    return _batched((tensor,), ((0, 0),))[0]


def gram(first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
    """<first, first>, <first, second> and <second, second>, scalars per sample, for less than one by one."""
    if _alone(first):
        x, y = first.reshape(-1), second.reshape(-1)
        return x.dot(x), x.dot(y), y.dot(y)
    return _batched((first, second), ((0, 0), (0, 1), (1, 1)))


def _alone(tensor: Tensor) -> bool:
    """Whether this is one sample on a CPU."""
    return tensor.shape[0] == 1 and tensor.is_cpu


def _batched(tensors: tuple[Tensor, ...], pairs: tuple[tuple[int, int], ...]) -> tuple[Tensor, ...]:
    """The inner product of each pair of the tensors, given by their places, (B, 1, ...)."""
    like, rows = tensors[0], [tensor.flatten(1) for tensor in tensors]
    shape = (-1, *[1] * (like.ndim - 1))
    large = LARGE if len(tensors) > 1 else 4 * LARGE  # `_by_row` writes the products out
    if like.is_cpu and like.shape[1:].numel() >= large:
        samples = [row.unbind() for row in rows]
        dots = [x.dot(y) for i, j in pairs for x, y in zip(samples[i], samples[j])]
        return torch.stack(dots).view(len(pairs), *shape).unbind()
    return tuple([_by_row(rows[i], rows[j]).view(shape) for i, j in pairs])


def _by_row(first: Tensor, second: Tensor) -> Tensor:
    """(B,); no matrix product, which may be allowed to round to TF32, nor `vecdot`, which autocast makes imprecise."""
    if first is second:
        return torch.linalg.vector_norm(first, dim=1).square()
    return (first * second).sum(1)


def variation(tensor: Tensor) -> Tensor:
    """Variance times elements of a tensor (B, ...), a scalar per sample: several times as fast as `torch.var` on a CPU.

    By the squares less the mean, so that it means nothing, and may be below 0, where the deviation is less than about a
    hundredth of the mean, as it is in no prediction of a denoiser.
    """
    if _alone(tensor):
        x = tensor.reshape(-1)
        square, total = x.dot(x), x.sum()
    else:
        square = squared_norm(tensor)
        total = tensor.flatten(1).sum(1).view_as(square)
    return torch.addcmul(square, total, total, value=-1 / tensor.shape[1:].numel())


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator of two norms or inner products, 0 where both are 0."""
    return numerator / denominator.clamp(min=TINY)
