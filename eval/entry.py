"""Where the command `diffguide` begins: before anything is imported that takes time, in which it may be interrupted."""

import sys


def main() -> int:
    """Run the command line; the exit status, as `cli.main`."""
    try:
        from .cli import main

        return main()
    except KeyboardInterrupt:
        print("diffguide: interrupted", file=sys.stderr)
        return 130
