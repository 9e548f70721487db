"""The processes of one run: one, or those of `accelerate launch` or `torchrun`, on shared or separate disks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from .files import write_file
from .store import Store, Unit

_PATIENCE = timedelta(days=1)


class Processes:
    """This process among all. With one process nothing here waits or sends."""

    def __init__(self, device: str):
        from accelerate import PartialState

        # gloo for the CPU; a CPU asked for by name must not be taken for a GPU that is there. The others wait while the
        # first one measures a reference set or computes results: for longer than the 10 minutes that are usual.
        alone = self.launched() < 2
        self._state = None if alone else PartialState(cpu=device == "cpu" or None, timeout=_PATIENCE)

    @staticmethod
    def launched() -> int:
        """The number of processes that were started together. Imports nothing."""
        return int(os.environ.get("WORLD_SIZE", "1"))

    @staticmethod
    def rank() -> int:
        """The number of this process. Imports nothing."""
        return int(os.environ.get("RANK", "0"))

    @property
    def count(self) -> int:
        """How many there are."""
        return self._state.num_processes if self._state else 1

    @property
    def index(self) -> int:
        """Which this one is."""
        return self._state.process_index if self._state else 0

    @property
    def main(self) -> bool:
        """Whether this is the one that writes results and speaks to the user."""
        return self.index == 0

    def device(self, asked: str) -> str:
        """The device of this process where "auto" or "cuda" was asked for, one GPU each."""
        if self._state is None or asked not in ("auto", "cuda"):
            return asked
        return str(self._state.device)

    def wait(self) -> None:
        """Until all are here."""
        if self._state:
            self._state.wait_for_everyone()

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, in order, on all of them."""
        if self._state is None:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def share(self, units: Sequence[Unit]) -> list[Unit]:
        """The units that this process samples: every `count`-th, so that all have some of each cell."""
        return list(units[self.index :: self.count])

    def collect(self, store: Store) -> None:
        """Bring to the main process the batches that its disk lacks, one of each process at a time."""
        own = store.finished()
        there = self.gather(own)[0]
        mine = iter(sorted(own - there)) if not self.main else iter(())
        while True:
            unit = next(mine, None)
            sent = self.gather(None if unit is None else dict(_contents(store, unit)))
            if all(files is None for files in sent):
                return
            if self.main:
                for files in filter(None, sent):
                    for name, content in files.items():  # in order: the file that finishes the batch is the last
                        write_file(store.folder / name, content)


def _contents(store: Store, unit: Unit) -> Iterator[tuple[str, bytes]]:
    for path in store.files(unit):
        yield Path(path).relative_to(store.folder).as_posix(), path.read_bytes()
