"""The calibrations that ship with the embedded models: what the short names `ag` and `linear-ag` use there.

Made by `diffguide calibrate`, as examples/calibrate_emoji has it; one file for each model, rule and number of steps.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import embedded
from .errors import UserError
from .rules import parse_guidance
from .spelling import split_guidance

if TYPE_CHECKING:
    from diffguide.guidance import Guidance

CALIBRATED = ("ag", "linear-ag")


def rule_on(
    model: str, guidance: str, guidance_scale: float | None, steps: int | None, scheduler: str | None
) -> Guidance | None:
    """The rule that `guidance` spells, with the options that are calibrated for the model where none are given.

    None for the pipeline's own guidance. UserError as `parse_guidance`, and as `calibrated_options`.
    """
    name, given = split_guidance(guidance)
    fitted = {} if "coefficients" in given else calibrated_options(name, model, steps, scheduler)
    if given.get("space", fitted.get("space")) != fitted.get("space"):
        fitted = {}  # a threshold is that of its space
    fitted = {option: value for option, value in fitted.items() if option not in given}
    return parse_guidance(guidance, guidance_scale, fitted)


def calibrated_options(rule: str, model: str, steps: int | None, scheduler: str | None = None) -> dict[str, Any]:
    """The options that `rule` has by default on `model`; {} where nothing was calibrated.

    For `ag` those of the nearest number of steps. For `linear-ag`, whose coefficients are of one number of steps and of
    the model's own scheduler, UserError where an embedded model has none that fit.
    """
    if rule not in CALIBRATED or model not in embedded.EMBEDDED:
        return {}
    steps = steps or embedded.EMBEDDED[model].steps
    files = _files(rule, model)
    if rule == "ag":
        if not files:
            return {}
        nearest = min(files, key=lambda own: abs(own - steps))
        content = json.loads(files[nearest].read_text(encoding="utf-8"))
        return {name: content[name] for name in ("threshold", "space")}
    if steps not in files or scheduler is not None:
        known = " or ".join(map(str, sorted(files))) or "no"
        raise UserError(
            f"linear-ag has coefficients of {model} for {known} steps with the model's own scheduler: use these, or "
            "make others with `diffguide calibrate linear-ag` and give the file as linear-ag:coefficients=FILE"
        )
    from diffguide.guidance import Coefficients

    return {"coefficients": Coefficients.load(files[steps])}


def _files(rule: str, model: str) -> dict[int, Path]:
    """The calibrations of `rule` by number of steps."""
    found = (embedded.MODELS / model / "calibration").glob(f"{rule}-*.json")
    return {int(match[1]): path for path in found if (match := re.fullmatch(rf"{rule}-(\d+)\.json", path.name))}
