"""The files of a folder and of all folders below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """The files in `folder` and below it, with links that lead nowhere, which cannot be read, in no order.

    Links are followed, to files and to folders. Each folder is read once, whatever number of links lead to it: under
    its own name where it lies in `folder`, else under that of the first link. OSError: a folder that cannot be read.
    """
    seen, starts = set[tuple[int, int]](), [folder]
    for start in starts:  # grows by the links that are found
        for path, folders, names in os.walk(start, onerror=_fail):
            about = os.stat(path)
            if (about.st_dev, about.st_ino) in seen:
                folders.clear()
                continue
            seen.add((about.st_dev, about.st_ino))
            folders.sort()
            starts += [link for name in folders if (link := Path(path, name)).is_symlink()]
            files = (Path(path, name) for name in names)
            yield from (file for file in files if file.is_file() or file.is_symlink())


def _fail(error: OSError) -> None:
    raise error
