"""What one run of `diffguide generate` or `rank` is asked for, checked as far as it goes without loading torch."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arguments import check_scale, check_seed, check_side, check_steps, check_text
from .devices import check_dtype
from .embedded import EMBEDDED
from .errors import UserError, one_line
from .loading import model_kind
from .metadata import Settings, read_settings
from .rewards import is_own_reward
from .rule_names import MODIFIERS, NATIVE, RULES
from .schedulers import check_scheduler
from .spelling import check_guidance, format_guidance, has_own_scale, split_parts

MAX_PROMPT_FILE = 64 * 1024 * 1024
DEFAULT_MODEL = "emoji-sd"
TABLES = (".csv", ".json", ".jsonl", ".parquet", ".tsv")
"""Files whose lines are not prompts, but have them somewhere inside."""


@dataclass(frozen=True)
class Request:
    """Each of `prompts` is sampled with each of `seeds`. None: the pipeline's own default."""

    prompts: list[str]
    seeds: list[int]
    model: str
    guidance: str
    guidance_scale: float | None
    steps: int | None
    negative_prompt: str | None
    scheduler: str | None
    height: int | None
    width: int | None
    dtype: str | None
    device: str | None
    cpu_offload: bool
    batch_size: int

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """All pairs of prompt and seed, seeds of the first prompt first."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]


def make_request(args: argparse.Namespace) -> Request:
    """The request of a parsed command line: what it says, else what its `--from-image` says, else the model's defaults.

    UserError for whatever cannot be right.
    """
    recorded = _recorded(args.from_image) if args.from_image else {}
    prompts = _prompts(args) or ([recorded["prompt"]] if recorded else [])
    if not prompts:
        raise UserError("there is no prompt: give one in quotes, or --prompt-file, or --from-image")
    model = args.model or recorded.get("model", DEFAULT_MODEL)
    model_kind(model)
    defaults: dict[str, Any] = {"guidance": NATIVE[0]}
    if model in EMBEDDED:
        row = EMBEDDED[model]
        defaults = {"guidance": row.guidance, "guidance_scale": row.guidance_scale, "steps": row.steps}

    def setting(name: str) -> Any:
        given = getattr(args, name)
        return recorded.get(name, defaults.get(name)) if given is None else given

    guidance = setting("guidance")
    check_guidance(guidance)
    if has_own_scale(guidance):
        defaults.pop("guidance_scale", None)
    if args.guidance is None and "guidance" in recorded:
        _check_rewards(args.from_image, guidance)
    names = ("guidance_scale", "steps", "negative_prompt", "scheduler", "height", "width", "dtype")
    return Request(
        prompts=prompts,
        seeds=args.seeds or ([args.seed] if args.seed is not None else [recorded.get("seed", 0)]),
        model=model,
        guidance=guidance,
        device=args.device,
        cpu_offload=args.cpu_offload,
        batch_size=args.batch_size,
        **{name: setting(name) for name in names},
    )


def _prompts(args: argparse.Namespace) -> list[str]:
    if args.prompt is not None and args.prompt_file is not None:
        raise UserError("a prompt and --prompt-file cannot both be given")
    if args.prompt is not None:
        if not args.prompt.strip():
            raise UserError("the prompt is empty")
        return [args.prompt]
    if args.prompt_file is None:
        return []
    return read_prompts(Path(args.prompt_file))


def read_prompts(path: Path, repeats: bool = False) -> list[str]:
    """The lines of a prompt file without those that are blank, each once, or with `repeats` as often as it is there.

    UserError: no such file, no such text, or a table, whose lines are not prompts.
    """
    path = path.expanduser()
    if path.suffix.lower() in TABLES:
        raise UserError(f"the prompt file {str(path)!r} is no plain text: it should have one prompt a line, alone")
    try:
        if path.stat().st_size > MAX_PROMPT_FILE:
            raise UserError(f"the prompt file {str(path)!r} is larger than {MAX_PROMPT_FILE} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"the prompt file {str(path)!r} is not UTF-8 text") from error
    except OSError as error:
        raise UserError(f"cannot read the prompt file {str(path)!r}: {error.strerror}") from error
    if "\0" in text:
        raise UserError(f"the prompt file {str(path)!r} is not a text file")
    prompts = [line.strip() for line in text.split("\n") if line.strip()]  # U+2028 and such are text
    prompts = prompts if repeats else list(dict.fromkeys(prompts))
    if not prompts:
        raise UserError(f"the prompt file {str(path)!r} is empty: it should have one prompt a line")
    return prompts


def _recorded(image: str) -> dict[str, Any]:
    """The settings of a picture under the names of the flags, their values checked like those of flags."""
    settings = read_settings(Path(image).expanduser())
    try:
        return {name: value for name, value in _as_flags(settings).items() if value is not None}
    except UserError as error:
        raise UserError(f"the settings of {image!r} cannot be used: {one_line(error)}") from error


def _check_rewards(image: str, guidance: str) -> None:
    """UserError if the guidance of a picture has a reward that is not `REWARDS`' own: only the user may name one."""
    for name, options in split_parts(guidance):
        if name == "reward" and not is_own_reward(options["reward"]):
            spelled = shlex.quote(guidance) if guidance.isprintable() else repr(guidance)
            raise UserError(
                f"{image!r} names the reward {options['reward']!r}, whose code or weights diffguide does not "
                f"know: if you trust them, add --guidance {spelled}"
            )


def _as_flags(settings: Settings) -> dict[str, Any]:
    alone = [name for name, row in MODIFIERS.items() if row.alone]
    for rule in [name for name in (settings.rule, *settings.modifiers) if name not in (*RULES, *NATIVE, *alone)]:
        if rule == settings.rule or rule not in MODIFIERS:
            raise UserError(f"its rule {rule!r} is not one of the command line's")
    if settings.noise is not None:
        raise UserError("`diffguide rank` searched for its initial noise, which no seed gives")
    if settings.scheduler is not None:
        check_scheduler(settings.scheduler)
    return {
        "prompt": check_text(settings.prompt),
        "model": settings.model,
        "seed": check_seed(str(settings.seed)),
        "height": check_side(str(settings.height)),
        "width": check_side(str(settings.width)),
        "negative_prompt": None if settings.negative_prompt is None else check_text(settings.negative_prompt),
        "guidance": format_guidance(settings.rule, settings.options, settings.modifiers),
        "guidance_scale": None if settings.guidance_scale is None else check_scale(str(settings.guidance_scale)),
        "steps": None if settings.steps is None else check_steps(str(settings.steps)),
        "scheduler": settings.scheduler,
        "dtype": check_dtype(settings.dtype),
    }
