"""A CLIP model, its tokenizer and how its images are prepared, in a folder or on the hub, as transformers has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .files import read_json, write_json

PREPROCESSOR = "preprocessor_config.json"
_SPACE = "diffguide_space"


def load(source: str | Path, processor: str | Path, dtype: torch.dtype, local_files_only: bool) -> tuple[Any, Any, Any]:
    """Model (frozen, for evaluation), tokenizer, and preprocessor_config.json, None where there is none.

    ValueError: it is not there, or is not a CLIP model.
    """
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.utils import cached_file

    model_at, processor_at = (
        str(Path(p).expanduser()) if Path(p).expanduser().is_dir() else str(p) for p in (source, processor)
    )
    try:
        model, report = CLIPModel.from_pretrained(
            model_at, dtype=dtype, local_files_only=local_files_only, output_loading_info=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(processor_at, local_files_only=local_files_only)
        path = cached_file(
            processor_at, PREPROCESSOR, local_files_only=local_files_only, _raise_exceptions_for_missing_entries=False
        )
    except Exception as error:  # a missing or broken model makes the libraries raise nearly anything
        raise ValueError(
            f"cannot load {str(source)!r} as a CLIP model: {' '.join(str(error).split())[:160]}"
        ) from error
    if report["missing_keys"]:
        missing = min(report["missing_keys"])
        raise ValueError(f"{str(source)!r} is not a whole CLIP model: it has no weights for {missing!r}")
    return model.eval().requires_grad_(False), tokenizer, read_json(Path(path), "file") if path else None


def save(folder: str | Path, model: Any, tokenizer: Any, preparation: dict[str, Any], space: str) -> None:
    """Write what `load` reads."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(Path(folder, PREPROCESSOR), {**preparation, _SPACE: space})


def space(config: Any) -> str:
    """What the model is called with, by its preprocessor_config.json."""
    return config.get(_SPACE, "image") if isinstance(config, dict) else "image"
