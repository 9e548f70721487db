"""The few operations on tensors that rules are made of, for rules that are written on tensors.

A scalar per sample has the shape (B, 1, ...), so that it can be multiplied with a tensor (B, ...).
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGE = 1 << 16
"""Elements of a sample from which an inner product of its own is faster than one for the whole batch, on a CPU."""


def precise(tensor: Tensor) -> Tensor:
    """The tensor in the dtype that rules calculate in: float32, or float64 where it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def inner(first: Tensor, second: Tensor) -> Tensor:
    """(B, 1, ...): inner products of two tensors (B, ...) per sample, never in a precision below their own."""
    shape = (-1, *[1] * (first.ndim - 1))
    if first.device.type != "cpu":  # there a matrix product may be allowed to round to TF32
        return (first * second).flatten(1).sum(1).view(shape)
    if len(first) == 1:
        return torch.dot(first.reshape(-1), second.reshape(-1)).view(shape)
    x, y = first.flatten(1), second.flatten(1)
    if x.shape[1] < LARGE:
        return torch.linalg.vecdot(x, y).view(shape)
    return torch.stack([torch.dot(*pair) for pair in zip(x, y)]).view(shape)  # `vecdot` writes the products out


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator of two norms or inner products; 0 where both are 0."""
    return numerator / denominator.clamp(min=torch.finfo(denominator.dtype).tiny)
