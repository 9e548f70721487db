"""Zeroth-order search by ranks. Tang et al., ZO-RankSGD, arXiv 2303.03751 (ICLR 2024), on the shell of Gaussian noise.

A round asks twice: first for the order of a few perturbations of the point, then for the best along the direction that
this order estimates, the point itself included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import finite
from .tensors import per_sample


def rank_weights(candidates: int, ranked: int) -> list[float]:
    """The weights of m candidates of which the k best are ranked, best first, then of all the others; their sum is 0.

    The estimator is the mean of x_i - x_j over all pairs of which the ranking says that i is better than j. So the
    r-th best has m - 2r + 1, wins less losses, and one that is not ranked -k, all over k (k - 1) / 2 + k (m - k) pairs.
    The authors' code has m - 2r + 2 for the ranked ones: its sum is k, and it drifts to the mean of the candidates.

    ValueError: fewer than two candidates, or not 1 to `candidates` ranked.
    """
    if candidates < 2 or not 1 <= ranked <= candidates:
        raise ValueError(f"cannot rank {ranked} of {candidates} candidates: there must be two, and one ranked")
    pairs = ranked * (ranked - 1) / 2 + ranked * (candidates - ranked)
    wins = [candidates - 2 * rank + 1 for rank in range(1, ranked + 1)]
    return [weight / pairs for weight in [*wins, *[-ranked] * (candidates - ranked)]]


def to_shell(noise: Tensor) -> Tensor:
    """Each of (n, ...) at norm sqrt(D), where nearly all Gaussian noise of D numbers is."""
    norms = torch.linalg.vector_norm(noise.flatten(1), dim=1)
    return noise * per_sample(math.sqrt(math.prod(noise.shape[1:])) / norms, noise)


class ZerothOrderRankSearch:
    """Maximises what can only be ranked, by `ask` and `tell`.

        rank   y_i = x + mu xi_i,  xi_i ~ N(0, I);  the order of the best k  ->  g = sum of weight_i xi_i
        line   x + eta g / 2^i, the best y and x itself; the best of these becomes x

    Everything is brought back to norm sqrt(D) (`to_shell`), which the authors leave out: a denoiser has only seen noise
    of that norm. As in the paper, g is in units of xi: mu is divided out. Where x stays the best, the direction of
    the next round is averaged with all those since the last move.

    Args:
        start: the first x, (...), one latent without a batch dimension; dtype and device of the candidates follow it.
        candidates: m, perturbations in a round, at least 2. Default 8.
        spread: mu, above 0; x and y_i are atan(mu) apart on the shell. Default 0.5.
        step_size: eta, above 0. Default 1: g has about the norm of x, whatever D.
        line_steps: points along the direction, the i of the above from 0, at least 1. Default 4.
        seed: of the perturbations, which are the same on every device. Not the seed that the start was drawn with,
            whose numbers they would repeat.

    Attributes:
        point: x, the best so far, (...), float32.
        rounds: those that are complete.
        on_line: whether `ask` gives the candidates of the line search.

    Raises:
        ValueError: an option out of range, or a start that is not finite or all zeros.
    """

    def __init__(
        self,
        start: Tensor,
        candidates: int = 8,
        spread: float = 0.5,
        step_size: float = 1.0,
        line_steps: int = 4,
        seed: int = 0,
    ):
        self.candidates, self.line_steps = candidates, line_steps
        self.spread, self.step_size = finite("spread", spread), finite("step_size", step_size)
        if candidates < 2 or line_steps < 1 or min(self.spread, self.step_size) <= 0:
            raise ValueError("a search needs two candidates, one step of the line, a spread and a step size above 0")
        self.point = to_shell(start[None].float())[0]
        if not bool(self.point.isfinite().all()):
            raise ValueError("the start of a search must be finite, and not all zeros")
        self.rounds = 0
        self._dtype = start.dtype
        self._rng = torch.Generator().manual_seed(seed).get_state()  # before the perturbations of this round
        self._directions, self._count = torch.zeros_like(self.point), 0  # their sum since the last move
        self._best: int | None = None  # the perturbation ranked first, once there is one

    @property
    def on_line(self) -> bool:
        """Whether the line search is next."""
        return self._best is not None

    def ask(self) -> Tensor:
        """The candidates (n, ...) to be compared; the same ones until they are told of.

        In the line search: `line_steps` points, the longest step first, then the best perturbation, then x, the last.
        """
        return self._points().to(self._dtype)

    def tell(self, order: Sequence[int]) -> None:
        """Go on, knowing the best of what was asked: their indices, best first, any number from 1 on.

        Of the line search only the first counts. ValueError: no index, one that is not there, or one twice.
        """
        points, order = self._points(), list(order)
        if not order or len(set(order)) < len(order) or not set(order) <= set(range(len(points))):
            raise ValueError(f"an order is made of different numbers from 0 to {len(points) - 1}, not {order}")
        if self._best is None:
            weights = torch.full((self.candidates,), 0.0)
            ranked = rank_weights(self.candidates, len(order))
            weights[[*order, *(i for i in range(self.candidates) if i not in order)]] = torch.tensor(ranked)
            self._directions = self._directions + torch.tensordot(
                weights.to(self.point.device), self._perturbations()[0], 1
            )
            self._count += 1
            self._best = order[0]
            return
        if order[0] != len(points) - 1:
            self.point = points[order[0]]
            self._directions, self._count = torch.zeros_like(self.point), 0
        self._rng, self._best = self._perturbations()[1], None
        self.rounds += 1

    def state_dict(self) -> dict[str, Tensor]:
        """All that a search with the same options needs to go on; tensors, as safetensors takes them."""
        best = -1 if self._best is None else self._best
        numbers = torch.tensor([self.rounds, self._count, best])
        return {"point": self.point, "directions": self._directions, "rng": self._rng, "numbers": numbers}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where `state_dict` was taken. ValueError: not such a state, or one of another shape."""
        if state.keys() != self.state_dict().keys() or state["point"].shape != self.point.shape:
            raise ValueError(f"not the state of a search of shape {tuple(self.point.shape)}")
        self.point = state["point"].to(self.point).clone()
        self._directions = state["directions"].to(self.point).clone()
        self._rng = state["rng"].cpu().clone()
        self.rounds, self._count, best = state["numbers"].tolist()
        self._best = None if best < 0 else best

    def _points(self) -> Tensor:
        perturbed = to_shell(self.point + self.spread * self._perturbations()[0])
        if self._best is None:
            return perturbed
        sizes = self.step_size * 0.5 ** torch.arange(self.line_steps, device=self.point.device)
        direction = self._directions / self._count
        line = to_shell(self.point + sizes.view(-1, *[1] * direction.ndim) * direction)
        return torch.cat([line, perturbed[self._best, None], self.point[None]])

    def _perturbations(self) -> tuple[Tensor, Tensor]:
        """xi (m, ...) of this round, and the generator's state behind them."""
        generator = torch.Generator()
        generator.set_state(self._rng)
        xi = torch.randn(self.candidates, *self.point.shape, generator=generator)
        return xi.to(self.point.device), generator.get_state()
