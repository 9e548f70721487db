"""Ascent of a function of each sample, inside a ball, by normalised gradients with a line search.

Nothing here is read from the device: what a search finds is taken by `torch.where`, and it is as long for every sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .tensors import inner, ratio

SCALE = 1024.0
"""Of what is differentiated, so that gradients in half precision do not underflow; a power of two, so it is exact."""


@dataclass(frozen=True)
class Ascent:
    """How to climb. steps: gradients, one after another. tries: evaluations per gradient; 0: the whole move, unseen."""

    steps: int = 1
    tries: int = 4

    def climb(
        self,
        score: Callable[[Tensor], Tensor],
        origin: Tensor,
        length: Tensor | float,
        radius: Tensor | None = None,
        bent: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The move (B, ...) from `origin`, the scores (B,) there, and those at its end, None where nobody looked.

        score: (B, ...) -> (B,), each entry from its own sample alone. length: the RMS of the whole move, if nothing
        shortens it. radius: the largest L2 norm of the move. bent: what becomes of a direction (B, ...) of RMS 1.
        """
        numel = math.prod(origin.shape[1:])
        length = length / self.steps
        if radius is not None:
            if not isinstance(length, Tensor):
                length = torch.full((), length, dtype=origin.dtype, device=origin.device)  # which waits for no device
            length = torch.minimum(radius / numel**0.5, length.to(origin))
        share: Tensor | float
        move, first, last = torch.zeros_like(origin), None, None
        for _ in range(self.steps):
            here, gradient = _differentiated(score, origin + move)
            direction = _unit(gradient)
            if bent is not None:
                direction = _unit(bent(direction))
            first = here if first is None else first
            line = _Line(score, origin, move, direction, radius)
            if self.tries:
                share, last = line.search(here, inner(gradient, direction), length, self.tries)
            else:
                share = length
            move = line.at(share)
        assert first is not None
        return move, first, last


@dataclass(frozen=True)
class _Line:
    """From `origin + move` along `direction`, as far as the ball around the origin goes."""

    score: Callable[[Tensor], Tensor]
    origin: Tensor
    move: Tensor
    direction: Tensor
    radius: Tensor | None

    def at(self, share: Tensor | float) -> Tensor:
        """The move after `share` (B, 1, ...) of the direction."""
        move = self.move + share * self.direction
        if self.radius is None:
            return move
        return move * ratio(self.radius, inner(move, move).sqrt()).clamp(max=1)

    def search(self, here: Tensor, slope: Tensor, length: Tensor | float, tries: int) -> tuple[Tensor, Tensor]:
        """(B, 1, ...) and (B,): the best share of the direction that was found, and the score there.

        At the whole length, then each time at the top of the parabola through the score and the slope at the beginning
        and the last score: exact for a quadratic, and half of the last share at most where the score fell.
        """
        last = torch.zeros_like(slope) + length
        best, share = here, torch.zeros_like(slope)
        start = here.view(slope.shape)
        for k in range(tries):
            with torch.no_grad():
                found = self.score(self.origin + self.at(last))
            better = found > best
            best, share = torch.where(better, found, best), torch.where(better.view(slope.shape), last, share)
            if k + 1 < tries:
                sag = start + slope * last - found.view(slope.shape)
                top = torch.where(sag > 0, slope * last * last / (2 * sag), length)
                last = torch.minimum(top.clamp(min=0), torch.zeros_like(last) + length)
        return share, best


def _differentiated(score: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) and (B, ...): the scores and their gradients; each sample's own, since the others do not depend on it."""
    x = x.detach().requires_grad_()
    found = score(x)
    (gradient,) = torch.autograd.grad(found.sum() * SCALE, x, materialize_grads=True)
    return found.detach(), gradient / SCALE


def _unit(x: Tensor) -> Tensor:
    """(B, ...) at an RMS of 1 per sample; 0 where that cannot be: for zeros, and for what is not finite."""
    dims = tuple(range(1, x.ndim))
    x = x / x.abs().amax(dims, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    square = x.square().mean(dims, keepdim=True)
    return torch.where(square > 0, x * square.rsqrt(), 0.0)
