"""What an interrupted calibration has recorded, in a file beside its output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from diffguide.guidance import Step, Trajectories

from .calibration import SPACES, Recorded, Setting, record
from .errors import UserError
from .files import whole

_NAMES = ("model", "scheduler", "prediction", "total")


def recorded_with_resume(
    setting: Setting, prompts: range, output: Path, identity: dict[str, Any]
) -> tuple[Recorded, Path]:
    """Record `prompts`, going on from the file beside `output` and keeping it up to date; also the path of that file.

    identity: what has to be the same for that. UserError: the file is of another calibration, or is damaged.
    """
    partial = output.with_name(output.name + ".partial")
    recorded = _load(partial, setting.steps, len(prompts), identity) if partial.exists() else None
    done = recorded.count if recorded else 0
    if done:
        print(f"diffguide: goes on after {done} of {len(prompts)} prompts", file=sys.stderr)
    from tqdm import tqdm

    with tqdm(total=len(prompts), initial=done, unit="prompt", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for batch in setting.batches(prompts[done:]):
            recorded = record(setting, batch, recorded)
            _save(partial, recorded, identity)
            bar.update(len(batch))
    assert recorded is not None
    return recorded, partial


def _save(path: Path, recorded: Recorded, identity: dict[str, Any]) -> None:
    tensors = {"gram": recorded.trajectories.gram} | recorded.cosines
    step = {name: getattr(recorded.step, name) for name in _NAMES}
    about = {"identity": json.dumps(identity), "step": json.dumps(step), "count": str(recorded.count)}
    about["levels"] = json.dumps(recorded.trajectories.levels)
    with whole(path) as temporary:
        temporary.write_bytes(save(tensors, about))


def _load(path: Path, steps: int, most: int, identity: dict[str, Any]) -> Recorded:
    damaged = UserError(f"{str(path)!r} is damaged: delete it to calibrate from the start")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in ("gram", *SPACES)}
        before = json.loads(about["identity"])
        trajectories = Trajectories(steps, tuple(json.loads(about.get("levels", "[]"))))
        trajectories.gram, trajectories.samples = tensors.pop("gram"), int(about["count"])
        recorded = Recorded(trajectories, tensors, Step(**json.loads(about["step"])))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise damaged from error
    changed = [name for name, value in identity.items() if before.get(name) != value]
    if changed:
        raise UserError(
            f"{str(path)!r} is of a calibration with another {changed[0].replace('_', ' ')}: "
            "delete it, or give another --output"
        )
    if not 0 < recorded.count <= most:
        raise damaged
    return recorded
