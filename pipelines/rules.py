"""The short names of the rules, and their spelling on the command line: `apg:eta=0,momentum=-0.5`.

A rule is one row of RULES; its options are the arguments of its class, read from the signature.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType, NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import UserError, one_line, unknown

if TYPE_CHECKING:
    from diffguide.guidance import Guidance


@dataclass(frozen=True)
class Rule:
    """One row of the table: the class, by name in `diffguide.guidance`, the arXiv number of its paper, what it does."""

    class_name: str
    paper: str
    summary: str

    def load(self) -> type[Guidance]:
        """The class itself. Imports torch."""
        return getattr(import_module("diffguide.guidance"), self.class_name)


RULES: dict[str, Rule] = {
    "cfg": Rule("ClassifierFreeGuidance", "2207.12598", "classifier-free guidance, with guidance rescale (2305.08891)"),
    "apg": Rule("AdaptiveProjectedGuidance", "2410.02416", "projects away what saturates; high scales stay natural"),
    "raag": Rule("RatioAwareAdaptiveGuidance", "2508.03442", "less guidance where predictions differ; flow models"),
    "ag": Rule("AdaptiveGuidance", "2312.12487", "leaves out unconditional evaluations once both predictions agree"),
    "linear-ag": Rule(
        "LinearAdaptiveGuidance", "2312.12487", "estimates most unconditional predictions from earlier ones"
    ),
    "cfg-zero": Rule("ClassifierFreeZeroStarGuidance", "2503.18886", "scales uncond to fit cond; flow models"),
    "tcfg": Rule("TangentialClassifierFreeGuidance", "2503.18137", "drops what of uncond is not tangential to cond"),
    "fdg": Rule("FrequencyDecoupledGuidance", "2506.19713", "a scale for each frequency band of the latents"),
    "beta": Rule("BetaClassifierFreeGuidance", "2502.10574", "normalised differences, most guidance in the middle"),
}

NATIVE = ("native", "none")
"""Names for the pipeline's own guidance, untouched."""

_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """An option of a rule: its name, its type, and its default (`inspect.Parameter.empty` if it has none)."""

    name: str
    type: Any
    default: Any


def split_guidance(spec: str) -> tuple[str, dict[str, str]]:
    """`"apg:eta=0"` -> `("apg", {"eta": "0"})`; for "native" and "none" alike `("native", {})`.

    Checks the name of the rule and the form of the text, and imports nothing. UserError for a mistake.
    """
    name, _, text = (part.strip() for part in spec.partition(":"))
    if name in NATIVE and not text:
        return NATIVE[0], {}
    if name not in RULES:
        raise unknown("guidance rule", name, [*RULES, NATIVE[0]])
    options: dict[str, str] = {}
    for item in text.split(",") if text else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value):
            raise UserError(f"option {item.strip()!r} of rule {name!r} is not of the form name=value")
        if key in options:
            raise UserError(f"option {key!r} of rule {name!r} is given twice")
        options[key] = value
    return name, options


def parse_guidance(
    spec: str, guidance_scale: float | None = None, defaults: Mapping[str, Any] = MappingProxyType({})
) -> Guidance | None:
    """The rule that `spec` spells; None for "native" and "none", the pipeline's own guidance.

    guidance_scale: in the convention of diffusers; None (default): the default of the rule's class. defaults: of
    options, where they are others than those of the class (see `calibrated`).

    UserError, with the nearest valid name, for an unknown rule or option; and for a value that the rule does not take.
    """
    name, texts = split_guidance(spec)
    if name in NATIVE:
        return None
    options = rule_options(name)
    if "guidance_scale" in texts:
        raise UserError(f"the scale of rule {name!r} is not one of its options: it is given by --guidance-scale")
    for key in texts:
        if key not in options:
            raise unknown(f"option of rule {name!r}", key, options)
    values = {key: _parse(f"option {key!r} of rule {name!r}", text, options[key].type) for key, text in texts.items()}
    values = dict(defaults) | values
    for option in options.values():
        if option.default is _REQUIRED and option.name not in values:
            raise UserError(f"rule {name!r} needs its option {option.name!r}: {name}:{option.name}=...")
    if guidance_scale is not None and "guidance_scale" in inspect.signature(RULES[name].load()).parameters:
        values["guidance_scale"] = guidance_scale
    try:
        return RULES[name].load()(**values)
    except ValueError as error:
        raise UserError(f"rule {name!r}: {one_line(error)}") from error


def rule_options(name: str) -> dict[str, Option]:
    """The options of the rule called `name`, all arguments of its class but the scale. Imports torch."""
    cls = RULES[name].load()
    hints = get_type_hints(cls.__init__)
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: Option(p.name, hints.get(p.name, str), p.default) for p in parameters if p.name != "guidance_scale"}


def rule_name(rule: Guidance | None) -> str:
    """The short name of a rule; "native" for None; the name of the class for a rule that is not in the table."""
    if rule is None:
        return NATIVE[0]
    names = [name for name, row in RULES.items() if type(rule) is row.load()]
    return names[0] if names else type(rule).__name__


def option_values(rule: Guidance | None) -> dict[str, Any]:
    """The values of all options of a rule in the table, those at their defaults too; {} for any other rule."""
    name = rule_name(rule)
    values: dict[str, Any] = {key: getattr(rule, key) for key in rule_options(name)} if name in RULES else {}
    if "coefficients" in values:  # as they can be written down: the file that they were read from, if it was one
        source = rule.source  # type: ignore[union-attr]
        values = {"coefficients": source} if source else {}
    return values


def format_guidance(name: str, options: dict[str, Any]) -> str:
    """The spelling that `parse_guidance` reads back: `("apg", {"eta": 0.0})` -> `"apg:eta=0"`."""
    return ":".join(filter(None, [name, ",".join(f"{key}={_format(value)}" for key, value in options.items())]))


def guidance_spec(rule: Guidance | None) -> str:
    """The canonical spelling of a rule: its name and the options that are not at their defaults."""
    name, values = rule_name(rule), option_values(rule)
    changed = {key: value for key, value in values.items() if value != rule_options(name)[key].default}
    return format_guidance(name, changed)


def _format(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _parse(what: str, text: str, annotation: Any) -> Any:
    """The value of `text` under a type annotation: None, bool, int, float, str, Literal or a union of these."""
    union = get_origin(annotation) in (Union, UnionType)
    members = get_args(annotation) if union else (annotation,)
    expected = []
    for member in members:
        if get_origin(member) is Literal:
            expected += [str(choice) for choice in get_args(member)]
            if text in expected:
                return next(choice for choice in get_args(member) if str(choice) == text)
        elif member in _READERS:
            words, read = _READERS[member]
            expected.append(words)
            try:
                return read(text)
            except (KeyError, ValueError):
                continue
    if not expected:
        raise UserError(f"{what} cannot be given as text: it is for use from Python")
    raise UserError(f"{what} must be {' or '.join(expected)}, not {text!r}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_READERS: dict[Any, tuple[str, Any]] = {
    NoneType: ("none", lambda text: {"none": None}[text.lower()]),
    bool: ("true or false", lambda text: {"true": True, "false": False}[text.lower()]),
    int: ("a whole number", int),
    float: ("a finite number", _finite),
    str: ("text", str),
}
