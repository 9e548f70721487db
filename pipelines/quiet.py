"""Silence while a pipeline loads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


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
