"""What `diffguide rank` shows, and who answers: a person or a reward."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffguide.guidance import ZerothOrderRankSearch

from .errors import UserError
from .initial_noise import initial_noise, perturbation_seed
from .metadata import save_png
from .scoring import Sampler, descending, rewards_of, to_pictures
from .sheet import contact_sheet, in_rows

COLUMNS = 4

Answer = list[int] | Literal["keep", "quit"]
Judge = Callable[["Session", int], Answer]
"""Says what to do with the images of a session, given how many rounds there are in all."""


class Session:
    """A search over the initial noise of one picture, and the images of its candidates.

    shared: arguments of all calls. options: of `ZerothOrderRankSearch`. UserError: a pipeline whose initial noise
    cannot be chosen.
    """

    def __init__(
        self, pipe: Any, prompt: str, seed: int, shared: Mapping[str, Any], batch_size: int, options: Mapping[str, Any]
    ):
        self.prompt = prompt
        self.start = initial_noise(pipe, prompt, seed, shared)
        self.search = ZerothOrderRankSearch(self.start.noise, seed=perturbation_seed(seed), **options)
        self._sampler = Sampler(pipe, shared, batch_size)
        self._current: Tensor | None = None  # the image of the search's point (3, H, W)
        self._asked: Tensor | None = None  # images of the last question (n, 3, H, W)
        self._best: Tensor | None = None  # the best of these (3, H, W)

    def images(self) -> Tensor:
        """What `search.ask` asks about, as images (n, 3, H, W) in [0, 1]. What has been sampled is not again."""
        points = self.search.ask()
        if not self.search.on_line or self._best is None:
            self._asked = self._sample(points)
        else:
            steps = self._sample(points[: self.search.line_steps])
            self._asked = torch.cat([steps, self._best[None], self.current[None]])
        return self._asked

    @property
    def current(self) -> Tensor:
        """The image of the best so far, (3, H, W)."""
        if self._current is None:
            (self._current,) = self._sample(self.search.point[None])
        return self._current

    def tell(self, order: list[int]) -> None:
        """Hand the order of the last `images` to the search."""
        assert self._asked is not None
        on_line, self._best = self.search.on_line, self._asked[order[0]]
        self.search.tell(order)
        if on_line:
            self._current = self._best

    def _sample(self, noises: Tensor) -> Tensor:
        prompts = [self.prompt] * len(noises)
        batches = self._sampler.batches(prompts, lambda part: self.start.arguments(noises[part]))
        return torch.cat([images for _, images in batches])


class Person:
    """Shows a sheet, and reads the order from standard input until it is one."""

    def __init__(self, sheet: Path, top: int):
        self.sheet, self.top = sheet, top

    def __call__(self, session: Session, rounds: int) -> Answer:
        """An empty line or the end of the input: "keep"; q: "quit"."""
        search = session.search
        pictures = to_pictures(session.images())
        count, most = len(pictures), 1 if search.on_line else self.top
        labels = [str(number) for number in range(1, count + 1)]
        if search.on_line:
            labels[-1] += " (so far)"
        else:
            pictures, labels = [*pictures, *to_pictures(session.current[None])], [*labels, "so far"]
        wanted = "the best one" if most == 1 else f"the best {most}, best first"
        title = f"round {search.rounds + 1} of {rounds}: {wanted}"
        rows, captions = in_rows(pictures, COLUMNS), in_rows(labels, COLUMNS)
        save_png(contact_sheet(rows, captions=captions, title=title), self.sheet)
        print(self.sheet, flush=True)
        while True:
            print(
                f"{title} (1 to {count}; empty: keep the best so far; q: quit): ", end="", file=sys.stderr, flush=True
            )
            line = sys.stdin.readline()
            if not line.strip():
                if not line:
                    print(file=sys.stderr)
                return "keep"
            if line.strip().lower() == "q":
                return "quit"
            try:
                return parse_order(line, count, most)
            except UserError as error:
                print(f"diffguide: {error}", file=sys.stderr)


class RewardJudge:
    """Ranks by a reward of images, and says on standard error how high the best is after each round."""

    def __init__(self, reward: Any, top: int):
        if reward.space != "image":
            raise UserError(f"reward {reward.name!r} scores latents: give one that scores images")
        self.reward, self.top = reward, top

    def __call__(self, session: Session, rounds: int) -> Answer:
        """The order of the best by reward."""
        images, search = session.images(), session.search
        rewards = rewards_of(self.reward, images, [session.prompt] * len(images))
        order = descending(rewards)
        if search.on_line:
            print(f"diffguide: round {search.rounds + 1} of {rounds}: reward {rewards[order[0]]:.4f}", file=sys.stderr)
            return order[:1]
        return order[: self.top]


def parse_order(line: str, count: int, most: int) -> list[int]:
    """`"3 1 5"` -> `[2, 0, 4]`. UserError: not 1 to `most` different numbers from 1 to `count`."""
    words = re.split(r"[\s,]+", line.strip(" \t\r\n,"))
    strange = [word for word in words if not re.fullmatch(r"\d{1,9}", word, re.ASCII)]
    if strange:
        raise UserError(f"{strange[0][:40]!r} is not the number of a picture: write {_example(most)}")
    numbers = [int(word) for word in words]
    absent = [number for number in numbers if not 1 <= number <= count]
    if absent:
        raise UserError(f"there is no picture {absent[0]}: they are 1 to {count}")
    twice = [number for number in numbers if numbers.count(number) > 1]
    if twice:
        raise UserError(f"picture {twice[0]} is named twice")
    if len(numbers) > most:
        raise UserError(f"{len(numbers)} pictures are named: write {_example(most)}")
    return [number - 1 for number in numbers]


def _example(most: int) -> str:
    return (
        "one number" if most == 1 else f'up to {most} numbers, best first, such as "{" ".join("3152"[: min(most, 4)])}"'
    )
