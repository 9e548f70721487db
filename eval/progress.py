"""How far a long run is, on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

EVERY = 30.0  # seconds between two lines


class Progress:
    """Counts images up to `total`; `done` of them are there from an earlier run and do not count for the time left."""

    def __init__(self, total: int, done: int = 0, quiet: bool = False):
        self.total, self.earlier, self.done = total, done, done
        self.began = self.said = time.monotonic()
        self.quiet = quiet
        self.bar: Any = None
        if sys.stderr.isatty() and not quiet:
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, unit="image", file=sys.stderr, smoothing=0.05)

    def update(self, images: int) -> None:
        """So many images more."""
        self.done = min(self.done + images, self.total)
        if self.bar is not None:
            self.bar.update(self.done - self.bar.n)
        elif not self.quiet and time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            print(f"diffguide: {self.line()}", file=sys.stderr, flush=True)

    def line(self) -> str:
        """`120 of 512 images, 3.4 images/s, 2 min left`."""
        speed = (self.done - self.earlier) / max(time.monotonic() - self.began, 1e-9)
        left = f", {speed:.2g} images/s, {duration((self.total - self.done) / speed)} left" if speed else ""
        return f"{self.done} of {self.total} images{left}"

    def close(self) -> None:
        """Leave the terminal in order."""
        if self.bar is not None:
            self.bar.close()


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """`12 kB`, `3.4 MB`, in units of 1000 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
