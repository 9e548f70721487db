"""Pipelines from what a user names: an embedded model, a diffusers folder, a single file or a model on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .devices import resolve_device, resolve_dtype
from .embedded import EMBEDDED, assemble, check_embedded
from .errors import UserError, one_line, unknown
from .quiet import quiet, told_to_stay_offline
from .schedulers import check_scheduler, make_scheduler

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

# The original single-file formats, told apart by a piece of a name among their tensors; the first that fits counts.
_SINGLE_FILES = {
    "conditioner.embedders.": "StableDiffusionXLPipeline",
    "joint_blocks.": "StableDiffusion3Pipeline",
    "double_blocks.": "FluxPipeline",
    "input_blocks.": "StableDiffusionPipeline",
}


def load_pipeline(
    model: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    scheduler: str | None = None,
    cpu_offload: bool = False,
    progress_bar: bool = True,
    **options: Any,
) -> DiffusionPipeline:
    """A diffusers pipeline, ready to be called.

    Args:
        model: an embedded model ("emoji-sd"), a diffusers folder, a `.safetensors` file, or a model on the hub
            ("owner/name"; from the local cache alone if HF_HUB_OFFLINE is set).
        dtype: of the weights: a torch dtype, "float32", "float16", "bfloat16" or a usual short name. None and "auto":
            float32, but on CUDA bfloat16 for transformers (float16 overflows in many of them) and float16 for UNets.
        device: "cpu", "cuda", "cuda:1", "mps", "xpu". None and "auto": CUDA where there is one, else the CPU.
        scheduler: a name of `diffguide.pipelines.schedulers.SCHEDULERS`; None: the model's own.
        cpu_offload: keep on the GPU only the part of the pipeline that is at work (slower, far less memory).
        progress_bar: whether the pipeline shows its own progress bar while it samples.
        **options: further arguments of diffusers' `from_pretrained` or `from_single_file` (variant, revision, ...).
            With a device_map the pipeline stays where that puts it.

    Raises:
        UserError: an unknown name, a folder or file that holds no pipeline, a model that cannot be reached, an unknown
            dtype, scheduler or device, or a device that this machine has not.
        TypeError: further arguments for an embedded model.
    """
    kind = model_kind(model)
    if scheduler is not None:
        check_scheduler(scheduler)
    where = resolve_device(device)
    if cpu_offload and where.type == "cpu":
        raise UserError("CPU offload needs a GPU to bring the parts to: this pipeline is on the CPU already")
    if options.get("device_map") is not None and (cpu_offload or device not in (None, "auto")):
        raise UserError("a device_map places the parts of a pipeline by itself: leave device and cpu_offload out")
    if kind == "embedded" and options:
        raise TypeError(f"an embedded model takes no further arguments: {', '.join(options)}")
    with quiet(progress_bars=kind == "hub"):
        pipe = _load(str(model), kind, dtype, where, options)
        if cpu_offload:
            pipe.enable_model_cpu_offload(device=where)
        elif options.get("device_map") is None:
            pipe.to(where)
    if scheduler is not None:
        if not hasattr(pipe, "scheduler"):
            raise UserError(f"{type(pipe).__name__} has no scheduler that could be replaced: its parts have their own")
        pipe.scheduler = make_scheduler(scheduler, pipe.scheduler)
    pipe.set_progress_bar_config(disable=not progress_bar)
    return pipe


def model_kind(model: str | os.PathLike[str]) -> str:
    """What `model` names: "embedded", "folder", "file" or "hub". Imports nothing, and reaches for no network.

    UserError: a name, folder or file that can be none of these.
    """
    name = str(model)
    if name in EMBEDDED:
        check_embedded(name)
        return "embedded"
    try:
        return _kind_of_path(name, Path(model).expanduser())
    except OSError as error:
        raise UserError(f"cannot read {name[:80]!r}: {error.strerror}") from error


def _kind_of_path(name: str, path: Path) -> str:
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise UserError(f"folder {name!r} is not a diffusers pipeline: it has no model_index.json")
        return "folder"
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(f"{name!r} is not a model: expected a .safetensors file or a diffusers folder")
        return "file"
    if path.suffix in (".safetensors", ".ckpt") or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"there is no file or folder {name!r}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return "hub"
    if "/" in name:
        raise UserError(f"{name!r} is neither a folder nor the name of a model on the hub (owner/name)")
    raise unknown("model", name, [key for key, row in EMBEDDED.items() if row.denoiser])


def _load(name: str, kind: str, dtype: Any, device: torch.device, options: dict[str, Any]) -> DiffusionPipeline:
    import diffusers

    if kind == "embedded":
        return assemble(name, resolve_dtype(dtype, device, EMBEDDED[name].denoiser == "transformer"))
    path = str(Path(name).expanduser()) if kind != "hub" else name
    try:
        asks = kind == "hub" and not options.get("local_files_only")
        offline = kind == "folder" or (asks and not _hub_has(name, options.get("token")))
        options = {"local_files_only": offline or told_to_stay_offline(), **options}
        if kind == "file":
            cls = getattr(diffusers, _single_file_class(path))
            weights = resolve_dtype(
                dtype, device, not cls.__name__.startswith(("StableDiffusionP", "StableDiffusionXL"))
            )
            return cls.from_single_file(path, torch_dtype=weights, **options)
        config = diffusers.DiffusionPipeline.load_config(path, **_hub_options(options))
        weights = resolve_dtype(dtype, device, "transformer" in config)
        # what it was saved without has to be named, where the class does not call it optional (SD3 without T5)
        options = {part: None for part, library in config.items() if library in _NOTHING} | options
        return diffusers.DiffusionPipeline.from_pretrained(path, torch_dtype=weights, **options)
    except UserError:
        raise
    except Exception as error:  # a broken folder or file makes the libraries raise nearly anything
        hint = ": it is not in the local cache, and the hub cannot be reached" if kind == "hub" and offline else ""
        raise UserError(f"cannot load model {name!r}{hint} ({one_line(error, 400)})") from error


_NOTHING: tuple[Any, ...] = ([None, None], (None, None))
"""How `model_index.json` has a part that a pipeline was saved without."""


def _hub_has(name: str, token: str | bool | None) -> bool:
    """Whether the hub can be reached and has the model, asked once: downloads themselves try again for half a minute.

    token: as in `from_pretrained`. UserError if the hub answers that it has no such model.
    """
    from huggingface_hub import model_info
    from huggingface_hub.errors import RepositoryNotFoundError

    if told_to_stay_offline():
        return False
    try:
        model_info(name, timeout=10, token=token)
    except RepositoryNotFoundError as error:
        raise UserError(f"the hub has no model {name!r}, or it needs a login that is not there") from error
    except Exception:  # each version of the hub's client has its own for a network that is not there
        return False
    return True


def _hub_options(options: dict[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("local_files_only", "cache_dir", "revision", "token") if key in options}


def _single_file_class(path: str) -> str:
    """The pipeline class of a checkpoint in one file, from the names of its tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = "\n".join(file.keys())
    except SafetensorError as error:
        raise UserError(f"{path!r} is not a safetensors file ({one_line(error, 160)})") from error
    for piece, cls in _SINGLE_FILES.items():
        if piece in names:
            return cls
    raise UserError(f"{path!r} holds no pipeline that is known by its tensors: give a diffusers folder instead")
