"""Best of n: of the pictures of n seeds the one with the highest reward, the baseline of all that rewards can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from .errors import UserError
from .scoring import Scorer

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class BestOfN:
    """The best picture of one prompt.

    scores: (n,), float32, of all `seeds` in their order. evaluations: pictures sampled and scored, which is n.
    """

    prompt: str
    image: Image
    seed: int
    score: float
    seeds: list[int]
    scores: Tensor

    @property
    def evaluations(self) -> int:
        """What it cost, in pictures."""
        return len(self.seeds)


@overload
def best_of_n(
    pipe: Any,
    reward: Any,
    prompt: str,
    n: int | None = ...,
    seed: int | Sequence[int] = ...,
    *,
    batch_size: int = ...,
    **call: Any,
) -> BestOfN: ...
@overload
def best_of_n(
    pipe: Any,
    reward: Any,
    prompt: Sequence[str],
    n: int | None = ...,
    seed: int | Sequence[int] = ...,
    *,
    batch_size: int = ...,
    **call: Any,
) -> list[BestOfN]: ...
def best_of_n(
    pipe: Any,
    reward: Any,
    prompt: str | Sequence[str],
    n: int | None = None,
    seed: int | Sequence[int] = 0,
    *,
    batch_size: int = 1,
    **call: Any,
) -> BestOfN | list[BestOfN]:
    """Sample n seeds of each prompt and keep the picture with the highest reward.

    Args:
        pipe: a pipeline that makes pictures from prompts, or what `guide` returns.
        reward: of the protocol of `diffguide.guidance`, with a gradient or without, or any callable that
            `as_reward` takes: images (B, 3, H, W) in [0, 1] and their prompts -> (B,), higher is better.
        prompt: one, or several; each is sampled with the same seeds.
        n: pictures of a prompt, at least 1. None (default): as many as there are seeds, 8 where one is given.
        seed: the first of n consecutive ones (default 0), or n different seeds.
        batch_size: pictures sampled and scored together. Default 1; the result does not depend on it.
        **call: further arguments of the pipeline (num_inference_steps, height, negative_prompt, ...).

    Returns:
        A BestOfN for one prompt, a list of them for several. Of equal rewards the first seed's picture is the best.

    Raises:
        UserError: n seeds that are not n, what the pipeline does not take, or rewards that are not finite numbers.

    Example::

        best = best_of_n(pipe, lambda images: images[:, 0].mean((1, 2)), "red apple", n=16, num_inference_steps=10)
        best.image.save(f"apple-{best.seed}.png")
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if n is None:
        n = 8 if isinstance(seed, (int, Integral)) else len(seed)
    seeds = list(range(int(seed), int(seed) + n)) if isinstance(seed, (int, Integral)) else list(map(int, seed))
    if n < 1 or len(set(seeds)) != n:
        raise UserError(f"best of {n} needs {n} different seeds, at least one: {len(set(seeds))} are given")
    scorer = Scorer(pipe, reward, call, batch_size)
    jobs = [(text, number) for text in prompts for number in seeds]

    def place(part: slice) -> dict[str, Any]:
        return {"generator": [torch.Generator("cpu").manual_seed(number) for _, number in jobs[part]]}

    best: dict[int, tuple[float, Tensor]] = {}  # by prompt
    scores: list[float] = []
    for output, score in scorer.scored([text for text, _ in jobs], place):
        row = len(scores) // n
        if row not in best or score > best[row][0]:
            best[row] = score, output
        scores.append(score)
    results = []
    for row, text in enumerate(prompts):
        own = torch.tensor(scores[row * n : (row + 1) * n])
        k = int(own.argmax())
        image = scorer.picture(best[row][1], text, place(slice(row * n + k, row * n + k + 1)))
        results.append(BestOfN(text, image, seeds[k], float(own[k]), seeds, own))
    return results[0] if isinstance(prompt, str) else results
