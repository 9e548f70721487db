"""Rules as linear algebra: a basis of a few tensors, its inner products, and combinations of it.

Nearly every rule is, per sample, a linear combination of the model input z, the conditional prediction c, the
difference d = c - u and what the rule remembers, with scalars that follow from the inner products of these. So a rule
is written on coefficients of shape (B, k), k being the size of the basis, and touches memory twice: once for the Gram
matrix, once for the result. d is in the basis rather than u since |c|^2 - 2<c,u> + |u|^2 cancels when c is close to u.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class Basis:
    """Named tensors of one shape (B, ...), one row of `gram` each, in the order given.

    Inner products and combinations are taken in float32 or, for float64 tensors, in float64.
    """

    def __init__(self, **tensors: Tensor):
        self.names = tuple(tensors)
        self.tensors = tuple(tensors.values())
        first = self.tensors[0]
        dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
        self._units = torch.eye(len(self.tensors), dtype=dtype, device=first.device)
        self._gram: Tensor | None = None

    @property
    def gram(self) -> Tensor:
        """(B, k, k): inner products over all dimensions but the first, taken when first asked for."""
        if self._gram is None:
            self._gram = self._inner_products()
        return self._gram

    def _inner_products(self) -> Tensor:
        rows = [precise(tensor.flatten(1)) for tensor in self.tensors]
        products = {(i, j): torch.linalg.vecdot(x, rows[j]) for i, x in enumerate(rows) for j in range(i + 1)}
        return torch.stack(
            [torch.stack([products[max(i, j), min(i, j)] for j in range(len(rows))], -1) for i in range(len(rows))], -2
        )

    def __getitem__(self, name: str) -> Combination:
        """One tensor of the basis, as a combination; KeyError if it is not in the basis."""
        if name not in self.names:
            raise KeyError(f"{name!r} is not in the basis {self.names}")
        return Combination(self, self._units[self.names.index(name)])


@dataclass(frozen=True)
class Combination:
    """A linear combination of a basis, one set of coefficients per sample; supports +, -, * and / by scalars.

    coefficients: (B, k), or (k,) where all samples share them. A scalar is a number, a tensor of no dimension, or
    (B,), one per sample.
    """

    basis: Basis
    coefficients: Tensor

    def __add__(self, other: Combination) -> Combination:
        return Combination(self.basis, self.coefficients + other.coefficients)

    def __sub__(self, other: Combination) -> Combination:
        return Combination(self.basis, self.coefficients - other.coefficients)

    def __mul__(self, scalar: Tensor | float) -> Combination:
        return Combination(self.basis, self.coefficients * _column(scalar, self.coefficients))

    __rmul__ = __mul__

    def __truediv__(self, scalar: Tensor | float) -> Combination:
        return Combination(self.basis, self.coefficients / _column(scalar, self.coefficients))

    def dot(self, other: Combination) -> Tensor:
        """(B,): the inner product per sample, from the Gram matrix."""
        left = (self.coefficients.unsqueeze(-2) @ self.basis.gram).squeeze(-2)
        return (left * other.coefficients).sum(-1)

    def norm(self) -> Tensor:
        """(B,): the L2 norm per sample; never NaN, since a tiny negative square is rounding."""
        return self.dot(self).clamp(min=0).sqrt()

    def tensor(self) -> Tensor:
        """(B, ...): the combination itself, in float32, or float64 for float64 tensors."""
        first, *others = self.basis.tensors
        shape = (-1, *[1] * (first.ndim - 1))
        columns = [column.reshape(shape) for column in self.coefficients.unbind(-1)]
        result = columns[0] * precise(first)
        for column, tensor in zip(columns[1:], others):
            result = result.addcmul_(column, precise(tensor))
        return result


def precise(tensor: Tensor) -> Tensor:
    """The tensor in the dtype that rules calculate in: float32, or float64 where it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _column(scalar: Tensor | float, like: Tensor) -> Tensor | float:
    """A scalar per sample as a column against the coefficients."""
    if not isinstance(scalar, Tensor):
        return scalar
    scalar = scalar.to(like)
    return scalar.unsqueeze(-1) if scalar.ndim else scalar
