"""Images in batches, decoded ahead in threads, bad ones counted. Where they come from: `sources`."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffguide.pipelines.errors import UserError

from .decode import Bad, decode
from .own_prompts import own_prompt

THREADS = min(8, os.cpu_count() or 1)
AHEAD = 64  # images decoded before they are asked for
_NUMBER = re.compile(r"[0-9]+(?![0-9A-Za-z])")


@dataclass
class Batch:
    """Images in their order. images: of one size (N, 3, H, W), or a list of (3, H, W), uint8 or floats in [0, 1]."""

    images: Tensor | list[Tensor]
    names: list[str]
    captions: list[str | None]

    def __len__(self) -> int:
        return len(self.names)

    def parts(self, size: int) -> list[Batch]:
        """The batch in pieces of at most `size` images."""
        return [
            Batch(self.images[i : i + size], self.names[i : i + size], self.captions[i : i + size])
            for i in range(0, len(self), size)
        ]

    def groups(self) -> list[Tensor]:
        """The images as (N, 3, H, W), neighbours of one size and dtype together."""
        if isinstance(self.images, Tensor):
            return [self.images]
        groups: list[list[Tensor]] = []
        for image in self.images:
            if groups and (groups[-1][0].shape, groups[-1][0].dtype) == (image.shape, image.dtype):
                groups[-1].append(image)
            else:
                groups.append([image])
        return [torch.stack(group) for group in groups]


def _counts_down(first: str, second: str) -> bool:
    """Whether two names differ first in a number, and it is smaller in the second. Digits of a hash are no number."""
    place = next((place for place, (mine, other) in enumerate(zip(first, second)) if mine != other), 0)
    while place and first[place - 1] in "0123456789":
        place -= 1
    numbers = [_NUMBER.match(name, place) for name in (first, second)]
    return None not in numbers and int(numbers[1][0]) < int(numbers[0][0])  # type: ignore[index]


@dataclass
class Images:
    """Where images come from.

    label: for messages. count: how many, as far as known before decoding. convert: take what loses something by it:
    transparency (on white), grayscale, CMYK, 16 bits, images of several sizes. skip_bad: leave out what cannot be used.
    bad: what was left out in the latest pass.
    """

    label: str
    source: Iterable[Any]
    count: int | None = None
    convert: bool = False
    skip_bad: bool = False
    bad: list[Bad] = field(default_factory=list)

    def check_enough(self, what: str, fewest: int, role: str = "", n: int | None = None) -> None:
        """UserError: `what` needs more images than these. n: as many can be used; None: as many as are known of.

        role: what they are besides, ", the reference,".
        """
        n = self.count if n is None else n
        if n == 0:
            raise UserError(f"{self.label} holds no image")
        if n is not None and n < fewest:
            left_out = f" (left out: {summary(self.bad)})" if self.bad else ""
            raise UserError(f"{what} needs {fewest} images at least: {self.label}{role} has {n}{left_out}")

    def check_order(self, what: str) -> None:
        """UserError: these images do not come by their names, so that nothing can be paired with them by its place."""
        names = getattr(self.source, "images", None)
        if isinstance(names, list) and any(second < first for first, second in pairwise(names)):
            raise UserError(
                f"the images of {self.label} are not in the order of their names, so that they cannot be paired with "
                f"{what}: pack them by their whole names, or give a folder"
            )
        for first, second in pairwise(names if isinstance(names, list) else ()):
            if _counts_down(first, second):
                raise UserError(
                    f"the images of {self.label} cannot be paired with {what}: by name {first!r} comes before "
                    f"{second!r}, by number after it: give their numbers as many digits"
                )

    def batches(self, size: int, threads: int = THREADS) -> Iterator[Batch]:
        """The images, `size` at a time. Decoding goes on in threads while the caller is at work.

        UserError: there is no image, or there are bad ones and `skip_bad` is off: one line that counts them by kind,
        after all files were looked at.
        """
        self.bad = []
        pixels: list[Tensor] = []
        names, captions = list[str](), list[str | None]()
        shape: torch.Size | None = None
        found = False
        for name, image, caption in self._decoded(threads):
            if isinstance(image, Tensor) and not self.convert:
                shape = shape or image.shape
                if image.shape != shape:
                    sizes = f"{image.shape[2]} x {image.shape[1]}, the first is {shape[2]} x {shape[1]}"
                    image = Bad(name, "of another size", sizes, convertible=True)
            if isinstance(image, Bad):
                self.bad.append(image)
                pixels, names, captions = ([], [], []) if not self.skip_bad else (pixels, names, captions)
            elif self.skip_bad or not self.bad:
                pixels.append(image)
                names.append(name)
                captions.append(caption)
            found = found or bool(names)
            if len(names) == size:
                yield _batch(pixels, names, captions)
                pixels, names, captions = [], [], []
        if self.bad and not self.skip_bad:
            raise UserError(self._complaint())
        if names:
            yield _batch(pixels, names, captions)
        elif not found:
            raise UserError(f"{self.label} holds no image" + (f": {summary(self.bad)}" if self.bad else ""))

    def _decoded(self, threads: int) -> Iterator[tuple[str, Tensor | Bad, str | None]]:
        with ThreadPoolExecutor(max(1, threads), thread_name_prefix="decode") as pool:
            queue: deque[tuple[str, Future[Tensor | Bad] | Tensor | Bad, str | None]] = deque()
            try:
                for name, content, caption in self.source:
                    if caption is None and isinstance(content, bytes):
                        caption = own_prompt(content)
                    task = pool.submit(decode, content, name, self.convert) if isinstance(content, bytes) else content
                    queue.append((name, task, caption))
                    if len(queue) >= AHEAD:
                        yield _result(*queue.popleft())
                while queue:
                    yield _result(*queue.popleft())
            finally:
                for _, task, _ in queue:
                    if isinstance(task, Future):
                        task.cancel()

    def _complaint(self) -> str:
        first = self.bad[0]
        ways = ["--skip-bad leaves them out"]
        if any(bad.convertible for bad in self.bad):
            ways.append("--convert takes those that can be converted")
        detail = f" ({first.detail})" if first.detail else ""
        return (
            f"{self.label}: {summary(self.bad)}; the first is {first.name!r}: {first.kind}{detail}. {', '.join(ways)}"
        )


def summary(bad: list[Bad]) -> str:
    """How many of which kind, "3 truncated or damaged, 1 animated"."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(one.kind for one in bad).items())


def _result(name: str, task: Any, caption: str | None) -> tuple[str, Tensor | Bad, str | None]:
    return name, task.result() if isinstance(task, Future) else task, caption


def _batch(pixels: list[Tensor], names: list[str], captions: list[str | None]) -> Batch:
    same = all(image.shape == pixels[0].shape and image.dtype == pixels[0].dtype for image in pixels)
    return Batch(torch.stack(pixels) if same else pixels, names, captions)
