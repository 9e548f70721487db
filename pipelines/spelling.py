"""The spelling of rules on the command line, as text: `apg:eta=0,momentum=-0.5+rescale:phi=0.5`. Imports nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .errors import UserError, unknown
from .rule_names import MODIFIERS, NATIVE, RULES

Part = tuple[str, dict[str, Any]]

_JOINT = re.compile(r"\+(?=\s*[A-Za-z][\w-]*\s*(?:[:+]|$))")
"""A plus between two parts: a name follows, and a colon, a plus or the end. (Numbers and paths may have one, too.)"""


def split_parts(spec: str) -> list[Part]:
    """`"apg:eta=0+rescale"` -> `[("apg", {"eta": "0"}), ("rescale", {})]`; "native" for "none".

    The first is a rule, or a modifier that does without one. Checks names and the form of the text, not the options.
    UserError for a mistake.
    """
    parts = [_split(text) for text in _JOINT.split(spec)]
    (first, options), *rest = parts
    if first in NATIVE:
        if options:
            raise UserError(f"{first!r} is the pipeline's own guidance and takes no options")
        if rest:
            raise UserError(f"{rest[0][0]!r} goes around a rule, not around the pipeline's own guidance: write cfg+...")
        return [(NATIVE[0], {})]
    if first in MODIFIERS and not MODIFIERS[first].alone:
        after = [text.strip() for text in _JOINT.split(spec)]
        rules = [text for text, (name, _) in zip(after, parts) if name in RULES] or ["cfg"]
        better = "+".join([rules[0], *(text for text in after if text not in rules)])
        raise UserError(f"{first!r} goes around a rule: write it after one, such as {better}")
    if first not in RULES and first not in MODIFIERS:
        alone = [name for name, row in MODIFIERS.items() if row.alone]
        raise unknown("guidance rule", first, [*RULES, *alone, NATIVE[0]])
    names = [first]
    for name, _ in rest:
        if name in RULES:
            raise UserError(f"{first!r} and {name!r} are both rules: one of them, and modifiers after it")
        if name not in MODIFIERS:
            raise unknown("modifier of a rule", name, MODIFIERS)
        if name in names:
            raise UserError(f"{name!r} is given twice")
        names.append(name)
    for name, own in parts:
        for option in MODIFIERS[name].required if name in MODIFIERS else ():
            if option not in own:
                raise UserError(f"{name!r} needs its option {option!r}: {name}:{option}=...")
    return parts


def has_own_scale(spec: str) -> bool:
    """Whether the scale of the rule that comes first is not one of predictions. UserError."""
    name = split_guidance(spec)[0]
    return name in RULES and RULES[name].own_scale


def split_guidance(spec: str) -> Part:
    """Name and options of the rule that comes first; what goes around it is checked in the same way. UserError."""
    return split_parts(spec)[0]


def check_guidance(spec: str) -> str:
    """`spec`, if it has the form of a rule, and names no reward that cannot be. Imports no torch. UserError."""
    for name, options in split_parts(spec):
        if name == "reward":
            from .rewards import check_reward

            check_reward(options["reward"])
    return spec


def format_guidance(
    name: str, options: Mapping[str, Any], modifiers: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> str:
    """The spelling that `parse_guidance` reads back: `("apg", {"eta": 0.0})` -> `"apg:eta=0"`."""
    return join_parts([(name, dict(options)), *((other, dict(own)) for other, own in modifiers.items())])


def join_parts(parts: Sequence[Part]) -> str:
    """The spelling of what `split_parts` gives, or of the like with values in place of texts."""
    return "+".join(
        ":".join(filter(None, [name, ",".join(f"{key}={format_value(value)}" for key, value in options.items())]))
        for name, options in parts
    )


def tidy_guidance(spec: str) -> str:
    """The same spelling without what makes no difference. UserError as `split_parts`."""
    return join_parts(split_parts(spec))


def _split(text: str) -> Part:
    name, _, rest = (part.strip() for part in text.partition(":"))
    options: dict[str, Any] = {}
    for item in rest.split(",") if rest else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value):
            raise UserError(f"option {item.strip()!r} of rule {name!r} is not of the form name=value")
        if key in options:
            raise UserError(f"option {key!r} of rule {name!r} is given twice")
        options[key] = value
    return name, options


def format_value(value: Any) -> str:
    """The text that is read back as this value."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "/".join(map(format_value, value))
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
