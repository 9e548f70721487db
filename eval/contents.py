"""What the files hold that a plan refers to, so that a run does not go on with others. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from hashlib import sha256
from pathlib import Path

from diffguide.pipelines.calibrated import CALIBRATED, calibrated_options
from diffguide.pipelines.embedded import EMBEDDED, MODELS
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.loading import model_kind
from diffguide.pipelines.rewards import parse_reward
from diffguide.pipelines.spelling import split_guidance, split_parts

from .folders import files_below
from .networks import check_extractor
from .plan import Plan
from .references import REFERENCES

WHOLE = 64 * 1024 * 1024
"""Bytes of a file up to which all of it counts; of a larger one its size and BLOCKS blocks, evenly spaced."""
BLOCKS, BLOCK = 256, 64 * 1024


def plan_contents(plan: Plan) -> dict[str, str]:
    """16 hexadecimal digits for each file or folder that a plan refers to, by the name that it has there.

    The model, the reference, networks and rewards where they are paths; the coefficients of rules; and of what ships
    with the package the model's weights, and calibrations and rewards where a rule uses them. Prompts are in the plan
    itself. UserError: a file cannot be read.
    """
    paths = {name: path for name, path in _paths(plan) if path.exists()}
    return {name: content_hash(path) for name, path in paths.items()} | dict(_shipped(plan))


def content_hash(path: Path) -> str:
    """16 hexadecimal digits of the SHA-256 of a file, or of names and contents in a folder but for hidden ones.

    Of a file larger than WHOLE only blocks count, which any other training of the same network changes. UserError: it
    cannot be read.
    """
    try:
        if not path.is_dir():
            return _digest(path)
        entries = {entry.relative_to(path): entry for entry in files_below(path) if entry.is_file()}
        shown = {name.as_posix(): entry for name, entry in entries.items() if not _hidden(name)}
        lines = [f"{name} {_digest(entry)}\n" for name, entry in sorted(shown.items())]
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    return sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


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
        elif named.source:
            yield named.source, Path(named.source).expanduser()


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


def _digest(path: Path) -> str:
    size = path.stat().st_size
    digest = sha256(f"{size}\n".encode())
    with open(path, "rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for index in range(BLOCKS):
                file.seek(index * (size - BLOCK) // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)
