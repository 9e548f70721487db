"""Mistakes of the user: what was given, what was expected, what to do, in one line."""

import os
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake of the user. The command line prints it as one line and exits with status 2."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, whatever its case, or None if none is."""
    by_lower = {choice.lower(): choice for choice in choices}
    matches = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[matches[0]] if matches else None


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """The error for a name that is not among `choices`, with the nearest one where there is one.

    >>> unknown("rule", "agp", ["cfg", "apg"])
    UserError("unknown rule 'agp': did you mean 'apg'? (choose from cfg, apg)")
    """
    choices = list(choices)
    guess = nearest(name, choices)
    hint = (
        f"did you mean '{guess}'? (choose from {', '.join(choices)})" if guess else f"choose from {', '.join(choices)}"
    )
    return UserError(f"unknown {kind} {name!r}: {hint}")


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """The message of an error as one line of at most `limit` characters; the name of its class if it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def amount(count: int, what: str) -> str:
    """`"1 image"`, `"2 images"`."""
    return f"{count} {what}" + "s" * (count != 1)


def warn_user(message: str) -> None:
    """A warning that points to the line of the user which led here, outside this package."""
    level, frame = 2, sys._getframe(1)
    ours = os.path.dirname(__file__)
    while frame.f_back and os.path.dirname(frame.f_code.co_filename) == ours:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
