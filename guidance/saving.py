"""A rule and its options as JSON, in a folder of its own."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import read_json, write_json

if TYPE_CHECKING:
    from .base import Guidance

FILE = "guidance_config.json"


def save(rule: Guidance, folder: str | Path) -> None:
    """Write `rule` to `folder`, which is made where it is missing."""
    config = to_config(rule)  # before the folder is made: it may refuse
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_json(Path(folder, FILE), config)


def load(folder: str | Path, own: type[Guidance]) -> Guidance:
    """The rule in `folder`; of classes of one name it is `own`. ValueError: there is none, or it is damaged."""
    return from_config(read_json(Path(folder, FILE), "rule"), own)


def to_config(rule: Guidance) -> dict[str, Any]:
    """The class and the options of a rule in plain values; those of a rule inside it, too."""
    kind, variadic = type(rule).__name__, (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [name for name, its in inspect.signature(type(rule)).parameters.items() if its.kind not in variadic]
    kept = next((name for name in names if not hasattr(rule, name)), None)
    if kept is not None:
        raise ValueError(f"{kind} does not keep its option {kept} under that name, and cannot be written to a file")
    return {"_class_name": kind} | {name: _plain(rule, name, getattr(rule, name)) for name in names}


def from_config(config: Any, own: type[Guidance] | None = None) -> Guidance:
    """The rule that `to_config` describes; ValueError for any other content. own: as in `load`."""
    from .coefficients import Coefficients

    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise ValueError("the description of a rule has no _class_name")
    options = dict(config)
    cls = _class(options.pop("_class_name"), own)
    unknown = options.keys() - inspect.signature(cls).parameters.keys()
    if unknown:
        raise ValueError(f"{cls.__name__} has no option {min(unknown)!r}")
    for name, value in options.items():
        if name == "rule" or (isinstance(value, dict) and "_class_name" in value):
            options[name] = from_config(value, own)
        elif name == "coefficients" and isinstance(value, dict):
            options[name] = Coefficients.from_plain(value)
    try:
        return cls(**options)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"these are no options of {cls.__name__}: {error}") from error


def _class(name: str, own: type[Guidance] | None) -> type[Guidance]:
    """The rule of that name: `own`, or diffguide's, or the latest that was defined. ValueError: there is none."""
    from .base import Guidance
    from .modifiers import Correction, Modifier

    known: list[type[Guidance]] = [Guidance]
    for cls in known:
        known += [more for more in cls.__subclasses__() if more not in known]
    named = [cls for cls in known if cls.__name__ == name and cls not in (Guidance, Modifier, Correction)]
    if not named or name.startswith("_"):
        raise ValueError(f"there is no rule named {name!r}: if it is yours, define or import its class first")
    if own in named:
        return own
    return next((cls for cls in named if cls.__module__.startswith(f"{__package__}.")), named[-1])


def _plain(rule: Guidance, name: str, value: Any) -> Any:
    from .base import Guidance
    from .coefficients import Coefficients

    if isinstance(value, Guidance):
        return to_config(value)
    if isinstance(value, Coefficients):
        return asdict(value)
    if callable(value):
        kind = "function" if inspect.isroutine(value) else type(value).__name__
        raise ValueError(f"{name} of {type(rule).__name__} is a {kind}, which cannot be written to a file")
    value = value.tolist() if hasattr(value, "tolist") else value  # of NumPy, or a tensor
    try:
        json.dumps(value)
    except TypeError as error:
        kind = type(value).__name__
        raise ValueError(f"{name} of {type(rule).__name__} is a {kind}, which cannot be written to a file") from error
    return value
