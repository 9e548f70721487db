"""Silence while a pipeline loads, from the network, too; nothing said twice while one is called many times."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def told_to_stay_offline() -> bool:
    """Whether HF_HUB_OFFLINE says so, as the hub's client reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@contextmanager
def quiet(progress_bars: bool) -> Iterator[None]:
    """No load reports of diffusers and transformers, nor their bars but for downloads; afterwards all is as before.

    What they log is about files that were looked for in vain, or about weights that a shared checkpoint has besides;
    a real failure is an exception.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    verbosities = [(library, library.get_verbosity()) for library in (*libraries, hub_logging)]
    bars = [library for library in libraries if library.is_progress_bar_enabled()]
    for library, _ in verbosities:
        library.set_verbosity(library.CRITICAL)
    if not progress_bars:
        for library in bars:
            library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # Such as that torch_dtype has a new name, which not all supported versions of diffusers know.
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, verbosity in verbosities:
            library.set_verbosity(verbosity)
        for library in bars:
            library.enable_progress_bar()


@contextmanager
def once() -> Iterator[None]:
    """Each line of diffusers' code logs once, not in every call, such as that the end of a prompt was cut off."""
    filters = [(handler, _Spoken()) for handler in logging.getLogger("diffusers").handlers]
    for handler, spoken in filters:
        handler.addFilter(spoken)
    try:
        yield
    finally:
        for handler, spoken in filters:
            handler.removeFilter(spoken)


@contextmanager
def truncating() -> Iterator[None]:
    """No word of transformers on "indexing errors" of a long prompt, which diffusers cuts off, and says so itself."""
    logger = logging.getLogger("transformers.tokenization_utils_base")

    def true_alarm(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Token indices sequence length is longer")

    logger.addFilter(true_alarm)
    try:
        yield
    finally:
        logger.removeFilter(true_alarm)


class _Spoken(logging.Filter):
    """Lets the first record of each line of code through, of those that reach one handler."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: set[tuple[str, int]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        line = record.pathname, record.lineno
        new = line not in self._lines
        self._lines.add(line)
        return new
