"""Rules as linear algebra: a basis of a few tensors, their inner products, and combinations of them.

Nearly every rule is, per sample, a linear combination of a few tensors with scalars that follow from their inner
products. So a rule is written on scalars, and memory is touched once for each inner product that it asks for and once
for each tensor that its result holds. An inner product is taken when first asked for, and kept. The difference
d = c - u is a tensor of its own since |c|^2 - 2<c,u> + |u|^2 cancels when c is close to u.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .tensors import inner, per_sample, precise

_FOREIGN = (
    "a combination has other combinations added to it, and numbers or tensors (B,) multiplied with it, not a {} added: "
    "a tensor (B, ...) comes in by vectors.basis.add(name, tensor)"
)

Scalar = Tensor | float
"""A number, a tensor of no dimension, or (B,), one per sample."""


class Basis:
    """Named tensors of one shape (B, ...).

    Inner products and combinations are taken in float32 or, for float64 tensors, in float64.
    """

    def __init__(self, **tensors: Tensor):
        self._tensors = tensors
        self._products: dict[tuple[str, str], Tensor] = {}

    def add(self, name: str, tensor: Tensor) -> Combination:
        """One more tensor (B, ...), as a combination."""
        self._tensors[name] = tensor
        return self[name]

    def __getitem__(self, name: str) -> Combination:
        """One tensor of the basis, as a combination; KeyError if it is not in the basis."""
        if name not in self._tensors:
            raise KeyError(f"{name!r} is not in the basis {tuple(self._tensors)}")
        return Combination(self, (Term(name, 1.0, None),))

    def tensor(self, name: str) -> Tensor:
        """(B, ...): the tensor of that name, in the dtype that rules calculate in."""
        self._tensors[name] = precise(self._tensors[name])
        return self._tensors[name]

    def product(self, first: str, second: str) -> Tensor:
        """(B,): the inner product of two tensors over all dimensions but the first."""
        pair = (first, second) if first <= second else (second, first)
        if pair not in self._products:
            self._products[pair] = inner(self.tensor(first), self.tensor(second)).flatten()
        return self._products[pair]

    @property
    def first(self) -> Tensor:
        """(B, ...): one of the tensors, for its shape, dtype and device."""
        return self.tensor(next(iter(self._tensors)))

    def zeros(self) -> Tensor:
        """(B,): a scalar of zero for each sample."""
        return self.first.new_zeros(len(self.first))


class Term(NamedTuple):
    """factor * scalar * (the tensor of that name), where a scalar of None is 1. Numbers are kept apart since they cost
    nothing to multiply.
    """

    name: str
    factor: float
    scalar: Tensor | None


@dataclass(frozen=True)
class Combination:
    """A linear combination of a basis; supports +, - and unary -, and * and / by a `Scalar`."""

    basis: Basis
    terms: tuple[Term, ...]

    def __add__(self, other: Combination) -> Combination:
        if not isinstance(other, Combination):
            raise TypeError(_FOREIGN.format(type(other).__name__))
        terms = list(self.terms)
        for term in other.terms:
            same = [k for k, own in enumerate(terms) if own.name == term.name and own.scalar is term.scalar]
            if same:
                terms[same[0]] = term._replace(factor=terms[same[0]].factor + term.factor)
            else:
                terms.append(term)
        return Combination(self.basis, tuple(term for term in terms if term.factor != 0))

    __radd__ = __add__

    def __sub__(self, other: Combination) -> Combination:
        return self + -other

    def __rsub__(self, other: Combination) -> Combination:
        return -self + other

    def __neg__(self) -> Combination:
        return self.times(-1.0)

    def __mul__(self, scalar: Scalar) -> Combination:
        return self.times(scalar)

    __rmul__ = __mul__

    def __truediv__(self, scalar: Scalar) -> Combination:
        return self.times(1 / scalar)

    def times(self, scalar: Scalar) -> Combination:
        """As `*`."""
        if isinstance(scalar, Tensor):
            terms = tuple(Term(name, factor, _times(own, scalar)) for name, factor, own in self.terms)
        else:
            terms = tuple(Term(name, factor * scalar, own) for name, factor, own in self.terms if scalar != 0)
        return Combination(self.basis, terms)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """`tensor * combination`, and whatever torch.compile sees of `combination * tensor`."""
        if function in (Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.mul):
            left, right = args
            return left.times(right) if isinstance(left, Combination) else right.times(left)
        if function in (Tensor.div, Tensor.__truediv__, torch.div) and isinstance(args[0], Combination):
            return args[0].times(1 / args[1])
        raise TypeError(_FOREIGN.format("Tensor"))

    def dot(self, other: Combination) -> Tensor:
        """(B,): the inner product per sample."""
        total: Tensor | None = None
        for first in self.terms:
            for second in other.terms:
                product = self.basis.product(first.name, second.name)
                scaled = _scaled(first.factor * second.factor, _times(_times(first.scalar, second.scalar), product))
                total = scaled if total is None else total + scaled
        return self.basis.zeros() if total is None else total

    def norm(self) -> Tensor:
        """(B,): the L2 norm per sample; never NaN, since a tiny negative square is rounding."""
        if len(self.terms) == 1 and self.terms[0].scalar is None:  # no rounding below zero
            (name, factor, _), *_ = self.terms
            return _scaled(abs(factor), self.basis.product(name, name).sqrt())
        return self.dot(self).clamp(min=0).sqrt()

    def tensor(self) -> Tensor:
        """(B, ...): the combination itself, in float32, or float64 for float64 tensors. Not to be changed in place."""
        terms = self._collected()
        if not terms:
            return torch.zeros_like(self.basis.first)
        bare = [name for name, coefficient in terms.items() if coefficient == (1.0, None)]
        base, *others = dict.fromkeys([*bare[:1], *terms])
        if not bare:
            result = self.basis.tensor(base) * _shaped(_scaled(*terms[base]), self.basis.first)
        elif not others:
            return self.basis.tensor(base)
        else:
            second, *others = others
            result = _added(self.basis.tensor(base), *terms[second], self.basis.tensor(second), None)
        for name in others:
            _added(result, *terms[name], self.basis.tensor(name), result)
        return result

    def _collected(self) -> dict[str, tuple[float, Tensor | None]]:
        """One factor and scalar for each tensor."""
        coefficients: dict[str, tuple[float, Tensor | None]] = {}
        for name, factor, scalar in self.terms:
            if name in coefficients:
                factor, scalar = 1.0, _scaled(*coefficients[name]) + _scaled(factor, scalar)
            coefficients[name] = (factor, scalar)
        return coefficients


def _added(base: Tensor, factor: float, scalar: Tensor | None, tensor: Tensor, out: Tensor | None) -> Tensor:
    """base + factor * scalar * tensor, in one pass."""
    if scalar is None:
        return torch.add(base, tensor, alpha=factor, out=out)
    return torch.addcmul(base, tensor, _shaped(scalar, tensor), value=factor, out=out)


def _shaped(scalar: Any, like: Tensor) -> Any:
    """A scalar per sample, so that it can be multiplied with (B, ...)."""
    if not isinstance(scalar, Tensor):
        return scalar
    return per_sample(scalar.to(like), like)


def _scaled(factor: float, scalar: Tensor | None) -> Any:
    """factor * scalar, without an operation where there is nothing to do."""
    if scalar is None:
        return factor
    return scalar if factor == 1 else factor * scalar


def _times(first: Tensor | None, second: Tensor | None) -> Any:
    """first * second, None being 1."""
    if first is None or second is None:
        return second if first is None else first
    return first * second
