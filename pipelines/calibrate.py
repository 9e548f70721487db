"""diffguide calibrate: fit adaptive guidance to a model, a scheduler and a number of steps.

    diffguide calibrate ag --model emoji-sd --steps 20 --prompt-file prompts.txt --saving 0.25
    diffguide calibrate ag --model emoji-sd --steps 20 --prompt-file prompts.txt --similarity 0.95
    diffguide calibrate linear-ag --model emoji-sd --steps 20 --prompt-file prompts.txt --output coefficients.json

A part of the prompts is held out from the fit; on those the evaluations saved and the similarity to plain guidance are
measured. An interrupted calibration goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .arguments import add_command, argument, check_seed, to_number
from .embedded import EMBEDDED
from .errors import UserError, amount
from .files import check_file, held, whole
from .hashing import content_hash
from .loading import model_kind
from .options import add_sampling_options
from .request import DEFAULT_MODEL, read_prompts

RULES = ("ag", "linear-ag")
MIN_PROMPTS = 4


def add_parser(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    parser = add_command(commands, "calibrate", "fit adaptive guidance to a model", __doc__, run)
    add = parser.add_argument
    add("rule", choices=RULES, metavar="RULE", help=" or ".join(RULES))
    add("--model", "-m", default=DEFAULT_MODEL, help=f"as for generate (default {DEFAULT_MODEL})")
    add("--prompt-file", required=True, metavar="FILE", help="one prompt a line, UTF-8; 50 to 200 are usual")
    add("--held-out", type=argument(_share), default=0.25, metavar="SHARE", help="of the prompts (default 0.25)")
    add_sampling_options(parser, batch_size=8)
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--saving", type=argument(_share), help="ag: the share of evaluations to save (default 0.25)")
    goal.add_argument("--similarity", type=argument(_share), metavar="SSIM", help="ag: the mean similarity to keep")
    add("--seed", type=argument(check_seed), default=0, metavar="K", help="of the first prompt (default 0)")
    add("--output", "-o", metavar="JSON", help="default: RULE-MODEL-STEPS.json in the current folder")
    add("--overwrite", action="store_true", help="replace the file if it exists")
    add("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Calibrate; 0. UserError for a mistake of the user."""
    model_kind(args.model)
    if args.rule != "ag" and (args.saving is not None or args.similarity is not None):
        raise UserError("--saving and --similarity are for ag: the schedule of linear-ag is fixed")
    prompts = read_prompts(Path(args.prompt_file))
    if len(prompts) < MIN_PROMPTS:
        raise UserError(f"{args.prompt_file!r} has {amount(len(prompts), 'prompt')}: give at least {MIN_PROMPTS}")
    held_out = max(1, round(args.held_out * len(prompts)))
    if held_out == len(prompts):
        raise UserError(f"a --held-out of {args.held_out:g} leaves none of {held_out} prompts to fit to: give less")
    steps, scale = args.steps, args.guidance_scale
    if args.model in EMBEDDED:
        steps = steps or EMBEDDED[args.model].steps
        scale = EMBEDDED[args.model].guidance_scale if scale is None else scale
    lacking = [flag for flag, value in (("--steps", steps), ("--guidance-scale", scale)) if value is None]
    if steps is None or scale is None:
        raise UserError(f"give the {' and the '.join(lacking)} that {args.model!r} is to be used with")
    if scale == 1 or steps < 3:
        raise UserError("there is nothing to save at a scale of 1, or with fewer than 3 steps")
    output = Path(args.output or f"{args.rule}-{Path(args.model).name}-{steps}.json").expanduser()
    if args.rule == "linear-ag" and "," in str(output):
        raise UserError(
            f"the output {str(output)!r} has a comma, with which no rule can name it: give another --output"
        )
    check_file(output, "the calibration", "--output", args.overwrite)

    from .calibration import Setting, check_saving
    from .loading import load_pipeline

    if args.saving is not None:
        check_saving(args.saving, steps)

    pipe = load_pipeline(args.model, dtype=args.dtype, device=args.device, scheduler=args.scheduler, progress_bar=False)
    setting = Setting(pipe, scale, steps, prompts, args.seed, args.batch_size)
    busy = f"another calibration is at work on {str(output)!r}: wait for it, or give another --output"
    with held(output.with_name(f".{output.name}.lock"), busy):
        check_file(output, "the calibration", "--output", args.overwrite)  # since the model was loaded
        report = _calibrate(args, setting, range(len(prompts) - held_out), output)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(output)
        print(
            f"diffguide: {report['evaluations']:.1f} evaluations per image instead of {report['full']:.0f} "
            f"({report['saving']:.1%} saved), SSIM {report['similarity']:.3f} to plain guidance, "
            f"on {report['samples']} prompts held out from the fit to {report['fitted']}",
            file=sys.stderr,
        )
        print(
            f"diffguide: use it as --guidance {shlex.quote(report['guidance'])} --guidance-scale {scale:g}",
            file=sys.stderr,
        )
    return 0


def _calibrate(args: argparse.Namespace, setting: Any, fit: range, output: Path) -> dict[str, Any]:
    """Record, fit, judge, write the file; what is to be said of it."""
    from .calibration import adaptive_rule, judge, linear_rule, rising_space
    from .calibration_state import recorded_with_resume
    from .rules import guidance_spec

    identity = {key: getattr(args, key) for key in ("model", "scheduler", "seed", "dtype")}
    identity |= {"guidance_scale": setting.guidance_scale, "steps": setting.steps, "prompts": setting.prompts}
    held_out = range(fit.stop, len(setting.prompts))
    identity["number_held_out"] = len(held_out)
    path = Path(args.model).expanduser()
    identity["content_of_the_model"] = content_hash(path) if model_kind(args.model) in ("folder", "file") else None
    recorded, partial = recorded_with_resume(setting, fit, output, identity)
    if args.rule == "linear-ag":
        linear = linear_rule(recorded, setting.guidance_scale)
        judgement = judge(setting, linear, held_out, {})
        with whole(output) as temporary:
            linear.coefficients.save(temporary)
        spec, settings = f"linear-ag:coefficients={output}", {}
    else:
        space = rising_space(recorded)
        saving = args.saving
        if args.similarity is not None:
            saving = _saving_for(args.similarity, setting, recorded, space)
        rule = adaptive_rule(recorded, setting.guidance_scale, space, 0.25 if saving is None else saving)
        judgement = judge(setting, rule, held_out, {})
        spec, settings = guidance_spec(rule), {"threshold": rule.threshold, "space": space}
    report = asdict(judgement) | {"saving": judgement.saving, "fitted": recorded.count, "guidance": spec}
    if args.rule == "ag":
        step = recorded.step
        about = {"model": step.model, "scheduler": step.scheduler, "steps": setting.steps}
        about |= {"prediction": step.prediction, "guidance_scale": setting.guidance_scale}
        with whole(output) as temporary:
            temporary.write_text(json.dumps(about | settings | report, indent=1) + "\n", encoding="utf-8")
    partial.unlink(missing_ok=True)
    return report | settings | {"output": str(output)}


def _saving_for(similarity: float, setting: Any, recorded: Any, space: str) -> float:
    """The largest saving that keeps this similarity on the first of the prompts of the fit, to a 32nd of its range."""
    from .calibration import adaptive_rule, judge

    prompts, full = range(min(recorded.count, 16)), dict[range, Any]()
    low, high = 0.0, (setting.steps - 1) / (2 * setting.steps)
    for _ in range(5):
        middle = (low + high) / 2
        rule = adaptive_rule(recorded, setting.guidance_scale, space, middle)
        low, high = (middle, high) if judge(setting, rule, prompts, full).similarity >= similarity else (low, middle)
    if low == 0.0:
        raise UserError(f"no saving keeps a similarity of {similarity:g}: ask for less")
    return low


def _share(text: str) -> float:
    value = to_number(text)
    if not 0 < value < 1:
        raise UserError(f"{text!r} is not a number between 0 and 1")
    return value
