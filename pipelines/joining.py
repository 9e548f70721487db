"""Making one batch of the arguments with which a denoiser is evaluated for one text and for another."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .calls import sample_of
from .halves import SHARED
from .layouts import TEXT

OF_TEXT = ("encoder_", "pooled_", "txt_", "text_")
"""How arguments begin that are made of a text; others are masks."""

TEXT_MASKS = ("encoder_hidden_states_mask", "encoder_attention_mask")


def of_text(given: dict[str, Any]) -> dict[str, Any]:
    """Those of a denoiser's arguments that are made of a text, which are the same at each step."""
    return {name: value for name, value in given.items() if name.startswith(OF_TEXT) or "mask" in name}


def joined(
    module: nn.Module, given: dict[str, Any], second: dict[str, Any], refusal: Callable[[str], Exception]
) -> dict[str, Any]:
    """The arguments for one batch of both texts: `given`, with the first, and again with `second` in their place.

    The shorter text is filled up with zeros that are masked; the error of `refusal` if the denoiser takes no mask.
    """
    rows = len(sample_of((), given))
    lengths = [text[TEXT].shape[1] for text in (given, given | second) if isinstance(text.get(TEXT), Tensor)]
    if len(set(lengths)) > 1:
        given, second = _masked(module, given, refusal), _masked(module, given | second, refusal)
    return {name: _both(name, value, second.get(name, value), rows) for name, value in given.items()}


def _masked(module: nn.Module, given: dict[str, Any], refusal: Callable[[str], Exception]) -> dict[str, Any]:
    """`given`, with a mask for its text."""
    for name in (name for name in TEXT_MASKS if name in inspect.signature(module.forward).parameters):
        return given if given.get(name) is not None else given | {name: _all(given[TEXT])}
    raise refusal(
        "both prompts are embedded to different lengths, and it takes no mask of texts alone: give embeddings of one "
        "length, or none"
    )


def _all(text: Tensor) -> Tensor:
    return torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)


def _both(name: str, first: Any, second: Any, rows: int) -> Any:
    """Both values of an argument in one: a list with an entry per image, and otherwise tensors with a row for each."""
    if isinstance(first, list) and len(first) == rows and not any(isinstance(each, Tensor) for each in first):
        return [*first, *second]
    return _pair(name, first, second, rows)


def _pair(name: str, first: Any, second: Any, rows: int) -> Any:
    """Both values in one, wherever there are tensors with a row per image: one after the other."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if name in SHARED or not first.ndim or first.shape[0] != rows:
            return first if first.shape[:1] >= second.shape[:1] else second
        if second.shape[0] == 1:  # one negative prompt for all
            second = second.expand(rows, *second.shape[1:])
        longest = max(first.shape[1], second.shape[1]) if first.ndim > 1 else 0
        return torch.cat([_filled(first, longest), _filled(second, longest)])
    if isinstance(first, dict) and isinstance(second, dict):
        return {key: _pair(key, value, second.get(key, value), rows) for key, value in first.items()}
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return type(first)(_pair(name, *each, rows) for each in zip(first, second))
    return first


def _filled(tensor: Tensor, length: int) -> Tensor:
    """A tensor (B, tokens, ...) with zeros up to this number of tokens."""
    short = length - tensor.shape[1] if tensor.ndim > 1 else 0
    return F.pad(tensor, (*[0] * (2 * (tensor.ndim - 2)), 0, short)) if short > 0 else tensor
