"""A network on the processor, as many times at once as torch has threads.

Two threads that share one convolution wait for each other at the end of each of a hundred, and the slower one decides.
Two that run the network on images of their own never do. A part of a few images also stays in the processor's caches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import TypeVar

import torch

PART = 4
"""Images that a thread runs the network on at a time."""

In = TypeVar("In")
Out = TypeVar("Out")


@contextmanager
def single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads in each of which torch uses that one alone; the caller's own setting stays."""
    here, begun = torch.get_num_threads(), Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first question sets it to the default
        torch.set_num_threads(1)  # of this thread, and the default of threads to come
        begun.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="network")
    try:
        started = [pool.submit(begin) for _ in range(count)]
        begun.wait()
        torch.set_num_threads(here)
        for task in started:
            task.result()
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def side_by_side(
    work: Callable[[In], Out], groups: Iterable[list[In]], threads: int
) -> Generator[list[Out], None, None]:
    """`[work(x) for x in group]` of each group in order, in `threads` threads, which go on to the next group meanwhile.

    With one thread it is done here. The groups are read at most `2 * threads` pieces of work ahead.
    """
    if threads == 1:
        yield from ([work(piece) for piece in group] for group in groups)
        return
    with single_threads(threads) as pool:
        waiting: deque[list[Future[Out]]] = deque()
        for group in groups:
            waiting.append([pool.submit(work, piece) for piece in group])
            while len(waiting) > 1 and sum(map(len, waiting)) - len(waiting[0]) >= 2 * threads:
                yield [task.result() for task in waiting.popleft()]
        while waiting:
            yield [task.result() for task in waiting.popleft()]
