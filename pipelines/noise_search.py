"""Rewards without gradients, raised by the initial noise alone: ZO-RankSGD (arXiv 2303.03751) driven by a score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffguide.guidance import ZerothOrderRankSearch

from .errors import UserError, one_line
from .initial_noise import initial_noise, perturbation_seed
from .scoring import Scorer, descending

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class NoiseSearch:
    """The best picture that a search has seen.

    noise: its initial noise (1, ...), for `latents=`. scores: (evaluations,), float32, of all pictures in the order in
    which they were sampled, the seed's own first. history: the best so far after each round, that of the start first.
    """

    prompt: str
    image: Image
    noise: Tensor
    score: float
    scores: Tensor
    history: list[float]

    @property
    def evaluations(self) -> int:
        """What it cost, in pictures."""
        return len(self.scores)


def search_noise(
    pipe: Any,
    reward: Any,
    prompt: str,
    rounds: int = 10,
    candidates: int = 8,
    top: int = 3,
    seed: int = 0,
    *,
    spread: float = 0.5,
    step_size: float = 1.0,
    line_steps: int = 4,
    batch_size: int = 1,
    on_round: Callable[[int, float], None] | None = None,
    **call: Any,
) -> NoiseSearch:
    """Change the initial noise of one picture so that its reward rises, by the order of rewards alone.

    A round samples `candidates` perturbations of the noise and then `line_steps` points along the direction that the
    order of their best gives; see `ZerothOrderRankSearch`. With the start that is 1 + rounds (candidates + line_steps)
    pictures: the n of a `best_of_n` at equal cost.

    Args:
        pipe: a pipeline that takes `latents` and makes pictures from prompts, or what `guide` returns.
        reward: as for `best_of_n`; no gradient is taken.
        prompt: one text.
        rounds: at least 1. Default 10; the authors speak of 10 to 20.
        candidates, spread, step_size, line_steps: as for `ZerothOrderRankSearch`.
        top: how many of the candidates are ranked, 1 to `candidates`. Default 3.
        seed: of the noise to start with, and of the perturbations. Default 0.
        batch_size: pictures sampled and scored together. Default 1.
        on_round: called after each round with its number, from 1 on, and the best reward so far.
        **call: further arguments of the pipeline.

    Raises:
        UserError: a pipeline whose initial noise cannot be chosen, an option out of range, what the pipeline does not
            take, or rewards that are not finite numbers.
    """
    if rounds < 1 or not 1 <= top <= candidates:
        raise UserError(f"a search needs a round, and a top of 1 to {candidates}: not {rounds} and {top}")
    scorer = Scorer(pipe, reward, call, batch_size)
    if not isinstance(prompt, str):
        raise UserError(f"a search is for one prompt, which is a text, not {prompt!r}")
    start = initial_noise(pipe, prompt, seed, call)
    try:
        search = ZerothOrderRankSearch(start.noise, candidates, spread, step_size, line_steps, perturbation_seed(seed))
    except ValueError as error:
        raise UserError(one_line(error)) from error
    scores: list[float] = []
    best: tuple[float, Tensor, Tensor] | None = None  # reward, output, noise

    def score(noises: Tensor) -> list[float]:
        nonlocal best
        before = len(scores)
        for output, value in scorer.scored([prompt] * len(noises), lambda part: start.arguments(noises[part])):
            if best is None or value > best[0]:
                best = value, output, noises[len(scores) - before]
            scores.append(value)
        return scores[before:]

    current = score(search.point[None])[0]
    history = [current]
    for number in range(1, rounds + 1):
        order = descending(first := score(search.ask()))
        search.tell(order[:top])
        # of the line's points the last two, the best perturbation and the point itself, have their rewards already
        line = [*score(search.ask()[:line_steps]), first[order[0]], current]
        search.tell(descending(line)[:1])
        current = max(line)
        history.append(current)
        if on_round is not None:
            on_round(number, current)
    assert best is not None
    value, output, noise = best
    image = scorer.picture(output, prompt, start.arguments(noise[None]))
    return NoiseSearch(prompt, image, noise[None].to(start.noise), value, torch.tensor(scores), history)
