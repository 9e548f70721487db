"""The command `diffguide`. What a command needs beyond its arguments it imports when it runs."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diffguide.pipelines import calibrate, generate, listing, rank
from diffguide.pipelines.arguments import Parser
from diffguide.pipelines.errors import UserError, one_line

from . import compare, evaluate, listed, report, stats

_HERE, _USUAL = Path(__file__).parent.parent, warnings.formatwarning
_DESCRIPTION = "Swap the guidance rule of any diffusers pipeline, as it stands, and measure what the swap did."


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="diffguide", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"diffguide {version('diffguide')}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    listed.add_sections()
    for command in (generate, rank, calibrate, compare, evaluate, stats, report, listing):
        command.add_parser(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command line, `sys.argv` by default; the exit status.

    0: done. 2: a mistake of the user, told in one line on standard error. 130: interrupted. 141: nobody reads the
    output any more.
    """
    usual, warnings.formatwarning = warnings.formatwarning, _in_one_line
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a terminal's encoding lacks is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except UserError as error:
        print(f"diffguide: error: {one_line(error, 1000)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diffguide: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The interpreter flushes once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, RuntimeError) as error:
        words = _about_a_path(error)
        if words is None:
            raise
        print(f"diffguide: error: {words}", file=sys.stderr)
        return 2
    finally:
        warnings.formatwarning = usual


def _in_one_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: Any = None) -> str:
    """A warning of this package as a command says it; those of others as they are."""
    if Path(filename).is_relative_to(_HERE):
        return f"diffguide: warning: {one_line(str(message), 1000)}\n"
    return _USUAL(message, category, filename, lineno, line)


def _about_a_path(error: Exception) -> str | None:
    """One line on a file that the system refuses, such as one of too long a name; None for any other error."""
    if isinstance(error, OSError) and error.strerror:
        name = "the output" if error.filename is None else repr(str(error.filename))
        return one_line(UserError(f"cannot use {name}: {error.strerror}"), 400)
    if "home directory" in str(error):  # of pathlib, for a ~name that is no user
        return one_line(error, 400)
    return None


def _run(argv: list[str] | None) -> int:
    try:
        args = build_parser().parse(argv)
    except SystemExit as done:  # argparse, after --help or --version
        return int(done.code or 0)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
