"""What the files hold that a plan refers to, so that a run does not go on with others. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from hashlib import sha256
from importlib.machinery import PathFinder
from pathlib import Path

from diffguide.pipelines.calibrated import CALIBRATED, calibrated_options
from diffguide.pipelines.embedded import EMBEDDED, MODELS
from diffguide.pipelines.hashing import content_hash
from diffguide.pipelines.loading import model_kind
from diffguide.pipelines.rewards import parse_reward
from diffguide.pipelines.spelling import split_guidance, split_parts

from .networks import check_extractor
from .plan import Plan
from .references import REFERENCES


def plan_contents(plan: Plan) -> dict[str, str]:
    """16 hexadecimal digits for each file or folder that a plan refers to, by the name that it has there.

    The model, the reference, networks and rewards where they are paths; the file of a reward that is a Python function;
    the coefficients of rules; and of what ships with the package the model's weights, and calibrations and rewards
    where a rule uses them. Prompts are in the plan itself. UserError: a file cannot be read.
    """
    paths = {name: path for name, path in _paths(plan) if path.exists()}
    return {name: content_hash(path) for name, path in paths.items()} | dict(_shipped(plan))


def _paths(plan: Plan) -> Iterator[tuple[str, Path]]:
    """What may be a path, with its name in the plan."""
    names = [plan.inception, plan.clip, plan.dinov2, plan.reference if plan.reference not in REFERENCES else None]
    names += [plan.model] if model_kind(plan.model) in ("folder", "file") else []
    names += [check_extractor(plan.extractor)[1]] if plan.extractor else []
    rewards = [plan.reward]
    for guidance in plan.guidances:
        for _, options in split_parts(guidance):
            names.append(options.get("coefficients"))
            rewards.append(options.get("reward"))
    for name in filter(None, names):
        yield name, Path(name).expanduser()
    for reward in filter(None, rewards):
        named = parse_reward(reward)
        if named.row in EMBEDDED:
            yield f"reward {reward}", MODELS / named.row
        elif named.row == "callable":
            if file := _module_file(named.source.partition(":")[0]):
                yield named.source, file
        elif named.source:
            yield named.source, Path(named.source).expanduser()


def _module_file(name: str) -> Path | None:
    """The file of a Python module, which is not run; what it imports does not count. None: there is no such file."""
    spec, places = None, [*sys.path, ""]  # where `load_reward` looks
    for count in range(1, name.count(".") + 2):
        spec = PathFinder.find_spec(".".join(name.split(".")[:count]), places)
        if spec is None:
            return None  # which is told when the reward is loaded
        places = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _shipped(plan: Plan) -> Iterator[tuple[str, str]]:
    """The weights of the plan's model, and the calibrations that short names mean on it."""
    if plan.model in EMBEDDED:
        weights = [path for path in EMBEDDED[plan.model].files() if path.suffix == ".safetensors"]
        yield plan.weights, sha256("".join(map(content_hash, weights)).encode()).hexdigest()[:16]
    for cell in plan.cells:
        rule, given = split_guidance(cell.guidance)
        if rule in CALIBRATED and not given.keys() & {"coefficients", "threshold"}:
            fitted = calibrated_options(rule, plan.model, cell.steps, cell.scheduler)
            record = {
                key: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
                for key, value in fitted.items()
            }
            if record:
                name = f"{plan.model}/calibration/{rule}-*.json for {cell.steps} steps"
                yield name, sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
