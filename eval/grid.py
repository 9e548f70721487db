"""Runs a plan: what is not yet finished is sampled, measured and written, by as many processes as there are."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffguide.pipelines.errors import UserError, amount
from diffguide.pipelines.metadata import versions
from diffguide.pipelines.quiet import once
from diffguide.pipelines.sampling import scheduler_class

from .files import read_json, write_json
from .growth import obstacle, plan_of
from .plan import SHEET_ROWS, Plan
from .processes import Processes
from .progress import Progress, size
from .prompts import PROMPTS
from .store import Store, Unit

PER_IMAGE = "per_image.npz"
FILES = ("environment.json", PROMPTS, "results.csv", "results.json", PER_IMAGE, "report.html", "plan.json")
"""The last one says what the folder is: without it nothing here would be removed."""

FOLDERS = ("cells", "seconds")


def check_folder(folder: Path, plan: Plan) -> None:
    """UserError if `folder` holds something else, or a comparison that `plan` does not go on with, naming what differs.

    Imports no torch.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"the output {str(folder)!r} is a file")
    there = plan_of(folder)
    if there is None:
        if folder.is_dir() and any(path.name[0] != "." and path.name not in FOLDERS for path in folder.iterdir()):
            raise UserError(f"the folder {str(folder)!r} holds something else: give another --output")
        return
    if not has_begun(folder):
        return
    difference = obstacle(plan, there)
    if difference:
        source = f" of {plan.prompt_file!r}" if difference.startswith("prompts:") and plan.prompt_file else ""
        raise UserError(
            f"{str(folder)!r} holds another comparison ({difference}{source}): give --overwrite or another --output"
        )
    changed = plan.changed_file(there)
    if changed:
        raise UserError(
            f"{changed!r} has changed since the comparison in {str(folder)!r} began: restore it, or give --overwrite "
            "or another --output"
        )
    if changed is not None:
        unnoted = next(name for name in plan.files or {} if name not in (there.files or {}))
        raise UserError(
            f"an earlier diffguide began the comparison in {str(folder)!r} and did not note what {unnoted!r} held: "
            "give --overwrite or another --output"
        )


def has_begun(folder: Path) -> bool:
    """Whether a batch of a comparison is finished there: one that failed before holds nothing that could be lost."""
    return any(folder.glob("cells/*/batches/*.npz"))


def clear_folder(folder: Path) -> None:
    """Remove a comparison from its folder, and nothing else that lies there."""
    if (folder / "plan.json").is_file():
        for name in FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)


def environment(pipe: Any, networks: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers of a run depend on besides its plan; a run goes on only in the same."""
    import torch

    device = pipe._execution_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    record: dict[str, Any] = {
        "versions": versions(),
        "device": name,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "pipeline": type(pipe).__name__,
        "scheduler": scheduler_class(pipe),
    }
    for network, extractor in networks.items():
        about = ", ".join(f"{name} {getattr(extractor, name)}" for name in ("dim", "resize", "weights_hash"))
        record[f"network {network}"] = f"{extractor.name}, {about}"
    return record


def run_plan(
    plan: Plan,
    folder: str | os.PathLike[str],
    pipe: Any,
    measures: Mapping[str, Any],
    extractors: Mapping[str, Any] | None = None,
    seen: Mapping[str, Any] | None = None,
    processes: Processes | None = None,
) -> Store:
    """Bring a comparison to its end: all batches of all cells are in `folder` afterwards, on the main process.

    Args:
        plan: what is sampled.
        folder: of this run, or of one of the same plan that was interrupted, or of a smaller one that it goes on with
            (see `growth`); else empty or not there.
        pipe: the loaded pipeline that `plan.model` names.
        measures: what is measured on images besides evaluations and the trace: name -> (images, prompts) -> (N,) or
            (N, D), as `measures.make_measures` gives them.
        extractors: the networks of the features among them; seen: those of other measures, by name. For the record.
        processes: None: this one.

    Raises:
        UserError: the folder holds another comparison, or was begun with other versions or on another device; as
            `sampler.sample_units`.
    """
    from .sampler import sample_units

    processes = processes or Processes("cpu")
    store, folder = Store(folder, plan), Path(folder)
    check_folder(folder, plan)
    if processes.main:
        store.make_folders()
        store.remove_leftovers()
    processes.wait()
    store.make_folders()
    known, now = folder / "environment.json", environment(pipe, {**(extractors or {}), **(seen or {})})
    if known.is_file():
        _check_environment(read_json(known), now)
    if plan_of(folder) != plan:  # on every disk there is; first, since without it a folder is none of a comparison
        write_json(folder / "plan.json", plan.to_dict())
    if known.is_file():  # also where another process wrote it in the meantime
        _check_environment(read_json(known), now)
    else:
        write_json(known, now)
    done = set().union(*processes.gather(store.finished()))
    todo = [unit for unit in _units(plan) if unit not in done]
    count = _images(plan, todo)
    total = plan.num_images * len(plan.cells)
    if processes.main:
        _announce(store, pipe, extractors or {}, total, count)
    progress = Progress(total, total - count, quiet=not processes.main or not todo)
    try:
        with once():
            for images in sample_units(pipe, store, processes.share(todo), measures, processes.index):
                progress.update(images * processes.count)
    finally:
        progress.close()
    processes.wait()
    processes.collect(store)
    return store


def _units(plan: Plan) -> list[Unit]:
    return [(cell, batch) for cell in range(len(plan.cells)) for batch in range(plan.batches)]


def _images(plan: Plan, units: list[Unit]) -> int:
    return sum(len(plan.images(batch)) for _, batch in units)


def _check_environment(then: Any, now: dict[str, Any]) -> None:
    if not isinstance(then, dict):
        raise UserError("the environment.json of this comparison is damaged: restore it, or give --overwrite")
    for key in now | then:
        pairs = {key: (then.get(key), now.get(key))}
        if isinstance(now.get(key), dict) and isinstance(then.get(key), dict):
            pairs = {name: (then[key].get(name), now[key].get(name)) for name in now[key] | then[key]}
        for name, (before, after) in pairs.items():
            if before != after:
                raise UserError(
                    f"this comparison was begun with {name} {before}, and here is {after}: its images would not be "
                    "alike; go on where it was begun, or give --overwrite"
                )


def _announce(store: Store, pipe: Any, extractors: Mapping[str, Any], total: int, todo: int) -> None:
    """How much there is to do and how much disk it takes at most."""
    plan = store.plan
    side = _side(pipe)
    pixels = (plan.height or side) * (plan.width or side)
    kept = total if plan.keep != "none" else min(SHEET_ROWS, plan.num_images) * len(plan.cells)
    images = kept * (pixels * 3.02 + 6000)  # an image that cannot be compressed, and its settings
    features = total * (4 * sum(extractor.dim for extractor in extractors.values()))
    traces = total * (sum(cell.steps for cell in plan.cells) / len(plan.cells) * 28 + 600)
    free = shutil.disk_usage(store.folder).free
    parts = f"images {size(images)}, features {size(features)}, traces {size(traces)}"
    what = f"{amount(len(plan.cells), 'cell')} of {amount(plan.num_images, 'image')}, {todo} of {total} to make"
    most = f"at most {size(images + features + traces)} of disk" if pixels else "disk besides images"
    print(f"diffguide: {what}; {most} ({parts}), {size(free)} free", file=sys.stderr)


def _side(pipe: Any) -> int:
    """The side of the pipeline's images in pixels, 0 if it does not say."""
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    cells = getattr(pipe, "default_sample_size", None) or getattr(getattr(denoiser, "config", None), "sample_size", 0)
    return int(cells or 0) * int(getattr(pipe, "vae_scale_factor", 8)) if isinstance(cells, int) else 0
