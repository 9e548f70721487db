"""Prompts that were given as a list, in a file of the run, so that its command can name them. Imports no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from diffguide.pipelines.embedded import EMBEDDED

from .files import write_file
from .plan import Plan, shuffled
from .references import reference_captions

PROMPTS = "prompts.txt"
EMOJI = "emoji"
"""The reference set of the embedded models."""


def emoji_prompts() -> list[str]:
    """The prompts of embedded models where none are given."""
    return shuffled(reference_captions(EMOJI))


def write_prompts(folder: Path, plan: Plan) -> None:
    """Write the file of the prompts, one a line, if the run keeps one. UserError if it cannot be written."""
    path = folder / PROMPTS
    if _listed(plan) or (plan.prompt_file is not None and Path(plan.prompt_file).resolve() == path.resolve()):
        write_file(path, "".join(f"{prompt}\n" for prompt in plan.prompts).encode())


def run_command(plan: Plan) -> str:
    """The command line that makes the plan of a run again, without its --output; prompts.txt is in the run.

    It is empty for cells that are no full grid, which only Python asks for.

    No path of the run itself is in it: two runs of one plan are the same to the byte.
    """
    return (replace(plan, prompt_file=PROMPTS) if _listed(plan) else plan).command()


def _listed(plan: Plan) -> bool:
    """Whether the prompts come neither from a file nor from the reference set."""
    if plan.prompt_file is not None:
        return False
    return plan.model not in EMBEDDED or plan.prompts != tuple(emoji_prompts()[: plan.num_images])
