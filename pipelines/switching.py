"""The arguments of a guided call: the pipeline's own guidance on, for two predictions to act on, or off."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .errors import UserError, amount
from .layouts import TEXT, Layout
from .replacing import replaced

_PLACED = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
_FURTHER = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def switched_on(
    pipe: Any,
    native: type[Any],
    layout: Layout,
    scale: float,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """The arguments of a call of `pipe`, of the class `native`, by name, with its guidance on, at whatever scale.

    scale: that of the rule. warn: what the user should hear of arguments that do not count.
    UserError: the caller switches guidance off, or asks for what no rule can act on, or there is neither a negative
    prompt nor a text encoder for the empty one.
    """
    arguments = _by_name(native, layout, args, kwargs)
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
    for name in (name for name, value in arguments.items() if name.endswith("guidance_rescale") and value):
        ours = "ClassifierFreeGuidance(guidance_rescale=...)"
        warn(f"the pipeline's {name} does nothing under a rule; use {ours}")
    for name, _ in layout.also:
        if arguments.get(name) is not None:
            warn(f"{name} is not used: the rule's guidance_scale={scale} counts; Scheduled(rule, ...) changes it")
    arguments[layout.scale] = max(scale - layout.offset, layout.off + 0.5) if scale > 1 else layout.off + 1.0
    arguments.update(layout.also)
    if layout.negative is not None and not _has_negative(arguments):
        encoders = [module for name, module in pipe.components.items() if name.startswith("text_encoder")]
        if arguments.get("prompt_embeds") is not None and encoders and encoders.count(None) == len(encoders):
            raise _no_text_encoder(native.__name__)
        arguments["negative_prompt"] = _like_prompt(layout.negative, arguments)
    return arguments


def switched_off(
    pipe: Any,
    native: type[Any],
    layout: Layout,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """The arguments of a call of `pipe`, of the class `native`, by name, with its guidance off.

    A scale that is an input of the model, as in consistency models, is the caller's. warn, UserError: as `switched_on`.
    """
    arguments = _by_name(native, layout, args, kwargs)
    configs = [getattr(getattr(pipe, name, None), "config", {}) for name in layout.denoisers]
    if not layout.scale or any(config.get("time_cond_proj_dim") is not None for config in configs):
        return arguments
    for name in (layout.scale, *layout.other_scales):
        given = arguments.get(name)
        if given is not None and given > layout.off:
            warn(f"{name}={given} is not used: the rule has no unconditional prediction to go by; put it around one")
    if _has_negative(arguments):
        warn("negative_prompt is not used: the rule has no unconditional prediction to go by; put it around one")
    given = [name for name in layout.other_scales if arguments.get(name) is not None]
    return arguments | dict(layout.also) | dict.fromkeys([layout.scale, *given], layout.off)


def _no_text_encoder(name: str) -> UserError:
    return UserError(f"{name} has no text encoder: give negative_prompt_embeds")


def negative_embeddings(
    pipe: Any, arguments: dict[str, Any]
) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], Callable[[], None]]:
    """For a call of a pipeline that makes no unconditional prediction: the negative prompt for its denoiser, and undo.

    `negative_prompt` is taken out of the arguments, or its embeddings are. It is embedded, or "" where there is none,
    when the pipeline embeds its prompt, from then on, until undone. What is returned tells from the arguments of the
    denoiser, by name, those that are others for the negative prompt.
    UserError: there are only embeddings of the prompt, and nothing to embed a negative prompt with.
    """
    native, name = pipe.encode_prompt, type(pipe).__name__
    signature = inspect.signature(type(pipe).encode_prompt)
    known = [each for each in signature.parameters if each.startswith(("prompt", "pooled_"))]
    negative = {each: arguments.pop(f"negative_{each}", None) for each in known}
    text = negative["prompt"]
    if negative["prompt_embeds"] is None:
        if getattr(pipe, "text_encoder", None) is None:
            raise _no_text_encoder(name)
        own = text is None or isinstance(text, str)
        negative["prompt"] = _like_prompt(text or "", arguments) if own else list(text)
    lacking = [each for each in known if each.endswith(("embeds", "mask")) and negative[each] is None]
    if negative["prompt_embeds"] is not None and lacking:
        raise UserError(f"{name} needs negative_{lacking[0]} beside negative_prompt_embeds")
    found: list[tuple[Any, ...]] = []

    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        embedded, other = native(*args, **kwargs), signature.bind(pipe, *args, **kwargs)
        other.arguments |= negative
        found[:] = [embedded, native(*other.args[1:], **other.kwargs)]
        rows = [len(each[0]) for each in found]
        if rows[0] != rows[1]:
            images = amount(rows[0], "image")
            raise UserError(f"{name} needs as many negative prompts as prompts: {images}, {rows[1]} of them")
        return embedded

    def others(seen: dict[str, Any]) -> dict[str, Any]:
        text = {TEXT: found[1][0].to(seen[TEXT].dtype)}
        pairs = [(own, new) for own, new in zip(*found) if own is not None]
        return {name: new for name, value in seen.items() for own, new in pairs if value is own} | text

    return others, replaced(pipe, "encode_prompt", encode_prompt)


def takes_negative(native: type[Any]) -> bool:
    """Whether a pipeline that makes no unconditional prediction embeds prompts, for `negative_embeddings`."""
    return "prompt" in inspect.signature(getattr(native, "encode_prompt", lambda: None)).parameters


def chained_after_step(after_step: Callable[[Any], Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments by which a pipeline calls `after_step` on its latents, in front of the user's own callback."""
    users = arguments.get("callback_on_step_end")
    own = getattr(users, "tensor_inputs", None)  # of a callback of diffusers, which goes by these alone
    wanted = list(own or arguments.get("callback_on_step_end_tensor_inputs") or [])

    def callback(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        tensors["latents"] = after_step(tensors["latents"])
        returned = users(pipe, index, timestep, tensors) if users else None
        return {"latents": tensors["latents"]} | (returned or {})

    tensors = list(dict.fromkeys([*wanted, "latents"]))
    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": tensors}


def call_parameters(native: type[Any]) -> tuple[list[str], dict[str, inspect.Parameter]]:
    """The arguments of a pipeline's `__call__` by their places, and all of them by name.

    Those of a class that hands *args or **kwargs on are those of the class below it as well.
    """
    places: list[str] = []
    handed = True
    known: dict[str, inspect.Parameter] = {}
    for cls in native.__mro__:
        if "__call__" not in vars(cls):
            continue
        parameters = list(inspect.signature(vars(cls)["__call__"]).parameters.values())[1:]
        kinds = {parameter.kind for parameter in parameters}
        own = {each.name: each for each in parameters if each.kind not in _FURTHER}
        if handed:
            places += [each.name for each in own.values() if each.kind in _PLACED and each.name not in places]
        handed = handed and inspect.Parameter.VAR_POSITIONAL in kinds
        known = own | known
        if not kinds & _FURTHER:
            break
    return places, known


def _by_name(native: type[Any], layout: Layout, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name. UserError for what no rule can act on."""
    names, parameters = call_parameters(native)
    if len(args) > len(names):
        raise TypeError(f"{native.__name__} takes {len(names)} arguments, {len(args)} were given")
    arguments = dict(zip(names, args)) | kwargs
    for name in layout.unsupported:
        if arguments.get(name) is not None and arguments[name] != parameters[name].default:
            raise UserError(f"{name} adds a prediction of its own to each step, which no rule can act on: leave it out")
    return arguments


def _has_negative(arguments: dict[str, Any]) -> bool:
    return arguments.get("negative_prompt") is not None or arguments.get("negative_prompt_embeds") is not None


def has_own_negative(arguments: dict[str, Any]) -> bool:
    """Whether there is a negative prompt that is not the empty one, as far as that can be seen."""
    text = arguments.get("negative_prompt")
    return bool(text if isinstance(text, str) or text is None else any(text)) or (
        arguments.get("negative_prompt_embeds") is not None
    )


def _like_prompt(negative: str, arguments: dict[str, Any]) -> str | list[str]:
    """`negative` once, or once per prompt where several are given."""
    prompt, embeds = arguments.get("prompt"), arguments.get("prompt_embeds")
    if isinstance(prompt, list):
        return [negative] * len(prompt)
    return [negative] * len(embeds) if embeds is not None else negative
