"""The arguments of a guided call: the pipeline's own guidance on, so that there are two predictions to act on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .errors import UserError
from .layouts import Layout


def switched_on(
    native: type[Any],
    layout: Layout,
    scale: float,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """The arguments of a call of the class `native` by name, with its guidance on, at whatever scale.

    scale: that of the rule. warn: what the user should hear of arguments that do not count.
    UserError: the caller switches guidance off, or asks for what no rule can act on.
    """
    parameters = inspect.signature(native.__call__).parameters
    names = list(parameters)[1:]
    if len(args) > len(names):
        raise TypeError(f"{native.__name__} takes {len(names)} arguments, {len(args)} were given")
    arguments = dict(zip(names, args)) | kwargs
    for name in layout.unsupported:
        if arguments.get(name) is not None and arguments[name] != parameters[name].default:
            raise UserError(f"{name} adds a prediction of its own to each step, which no rule can act on: leave it out")

    own = arguments.get(layout.scale)
    if own is not None and own <= layout.off:
        raise UserError(
            f"{layout.scale}={own} switches the pipeline's guidance off, so that the rule has nothing to "
            f"act on; leave it out (the rule's own scale, {scale}, is the one that counts)"
        )
    for name in (layout.scale, *layout.other_scales):
        given = arguments.get(name)
        if given is not None and given + layout.offset != scale:
            warn(f"{name}={given} is not used: the rule's guidance_scale={scale} counts")
    if arguments.get("guidance_rescale"):
        ours = "ClassifierFreeGuidance(guidance_rescale=...)"
        warn(f"the pipeline's guidance_rescale does nothing under a rule; use {ours}")
    arguments[layout.scale] = max(scale - layout.offset, layout.off + 0.5) if scale > 1 else layout.off + 1.0
    arguments.update(layout.also)
    if layout.negative is not None and not _has_negative(arguments):
        arguments["negative_prompt"] = _like_prompt(layout.negative, arguments)
    return arguments


def _has_negative(arguments: dict[str, Any]) -> bool:
    return arguments.get("negative_prompt") is not None or arguments.get("negative_prompt_embeds") is not None


def _like_prompt(negative: str, arguments: dict[str, Any]) -> str | list[str]:
    """`negative` once, or once per prompt where several are given."""
    prompt, embeds = arguments.get("prompt"), arguments.get("prompt_embeds")
    if isinstance(prompt, list):
        return [negative] * len(prompt)
    return [negative] * len(embeds) if embeds is not None else negative
