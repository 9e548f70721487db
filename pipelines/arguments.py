"""What command lines share: the parser, and the checks of single values."""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from .errors import UserError, nearest, unknown

T = TypeVar("T")

MAX_SEED = 2**63 - 1
MAX_SEEDS = 100_000
MAX_STEPS = 1000  # as many as the timesteps of nearly all models
MAX_SIDE = 8192  # pixels
MAX_SCALE = 1_000_000


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors, with the nearest valid name, and that takes no abbreviations."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print below its usage."""
        raise UserError(message)

    def parse(self, argv: list[str] | None) -> argparse.Namespace:
        """As `parse_args`, with a hint for an option or a word too many."""
        args, extra = self.parse_known_args(argv)
        if not extra:
            self._check_empty(args)
            return args
        flag = extra[0].partition("=")[0]
        command: argparse.ArgumentParser = getattr(args, "parser", self)
        if not flag.startswith("-"):
            has_prompts = any(name.endswith("prompt") for name in vars(args))
            hint = "put a prompt of several words in quotes" if has_prompts else f"see {command.prog} --help"
            raise UserError(f"unexpected argument {flag!r}: {hint}")
        guess = nearest(flag, command._option_string_actions)
        raise UserError(
            f"unknown option {flag}" + (f": did you mean {guess}?" if guess else f": see {command.prog} --help")
        )

    def _check_empty(self, args: argparse.Namespace) -> None:
        """UserError for an empty value, as that of a variable that a script has not set, where it means nothing."""
        command: argparse.ArgumentParser = getattr(args, "parser", self)
        for action in command._actions:
            value = getattr(args, action.dest, None)
            if value == "" and action.dest not in ("prompt", "negative_prompt"):
                name = action.option_strings[0] if action.option_strings else action.metavar or action.dest
                raise UserError(f"{name} is empty: give a value" + (", or leave it out" * bool(action.option_strings)))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise unknown(action.metavar if isinstance(action.metavar, str) else action.dest, value, action.choices)


def add_command(
    commands: Any, name: str, help: str, description: str | None, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """The parser of a further command among argparse's `commands`.

    help: its line in the list of commands. description: what stands above its options, as it is written. run: what it
    does; the exit status.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, help=help, description=description, formatter_class=formatter)
    parser.set_defaults(run=run, parser=parser)
    return parser


def argument(check: Callable[[str], T]) -> Callable[[str], T]:
    """`check` as the `type` of an argparse argument: its UserError keeps its message."""

    def convert(text: str) -> T:
        try:
            return check(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def check_steps(text: str) -> int:
    """A number of steps, 1 to 1000. UserError for anything else."""
    return _whole(text, "a number of steps", 1, MAX_STEPS)


def check_count(text: str) -> int:
    """A whole number from 1 to 100,000. UserError for anything else."""
    return _whole(text, "a number", 1, MAX_SEEDS)


def check_seed(text: str) -> int:
    """A seed, 0 to 2**63 - 1. UserError for anything else."""
    return _whole(text, "a seed", 0, MAX_SEED)


def check_side(text: str) -> int:
    """Height or width in pixels: a multiple of 8 up to 8192. UserError for anything else."""
    side = _whole(text, "a height or width", 8, MAX_SIDE)
    if side % 8:
        raise UserError(f"a height or width must be a multiple of 8, not {side}: {side - side % 8 or 8} would do")
    return side


def check_scale(text: str) -> float:
    """A guidance scale: a number up to a million either way. UserError for anything else."""
    scale = to_number(text)
    if not math.isfinite(scale):
        raise UserError(f"a guidance scale must be a finite number, not {text!r}")
    if abs(scale) > MAX_SCALE:
        raise UserError(f"a guidance scale must be between -{MAX_SCALE} and {MAX_SCALE}, not {text!r}")
    return scale


def to_number(text: str) -> float:
    """The number that a text is, NaN for any other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def check_text(text: str) -> str:
    """A prompt. UserError if it is not valid Unicode, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"not valid Unicode text: {text[:40]!r}") from error
    return text


def check_seeds(text: str) -> list[int]:
    """Seeds as single numbers and ranges, `0-15,20`. UserError: malformed, descending, given twice or too many."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part, re.ASCII)
        if not match:
            raise UserError(f"seeds must be numbers and ranges such as 0-15,20, not {text!r}")
        first, last = check_seed(match[1]), check_seed(match[2] or match[1])
        if last < first:
            raise UserError(f"the range of seeds {part.strip()!r} runs backwards: write {last}-{first}")
        if last - first >= MAX_SEEDS or len(seeds) + last - first >= MAX_SEEDS:
            raise UserError(f"more than {MAX_SEEDS} seeds: {text!r}")
        seeds += range(first, last + 1)
    twice = [seed for seed, times in Counter(seeds).items() if times > 1]
    if twice:
        raise UserError(f"seed {min(twice)} is given twice in {text!r}")
    return seeds


def _whole(text: str, what: str, smallest: int, largest: int) -> int:
    # No more than 20 digits: Python refuses to read numbers of thousands of them with an error of its own.
    if not re.fullmatch(r"[+-]?\d{1,20}", text.strip(), re.ASCII) or not smallest <= int(text) <= largest:
        raise UserError(f"{what} must be a whole number from {smallest} to {largest}, not {text[:40]!r}")
    return int(text)
