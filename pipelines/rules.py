"""Rules from their spelling and back. A rule's options are the arguments of its class, read from the signature."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_type_hints

from .errors import UserError, one_line, unknown
from .rule_names import MODIFIERS, NATIVE, RULES, Rule
from .rule_values import parse_value
from .spelling import format_value, join_parts, split_parts

if TYPE_CHECKING:
    from diffguide.guidance import Guidance

_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """An option of a rule: its name, its type, and its default (`inspect.Parameter.empty` if it has none)."""

    name: str
    type: Any
    default: Any


def parse_guidance(
    spec: str, guidance_scale: float | None = None, defaults: Mapping[str, Any] = MappingProxyType({})
) -> Guidance | None:
    """The rule that `spec` spells, with what goes around it; None for "native" and "none", the pipeline's own guidance.

    guidance_scale: in the convention of diffusers; None (default): the default of the rule's class. defaults: of
    options of the rule, where they are others than those of the class (see `calibrated`).

    UserError, with the nearest valid name, for an unknown rule, modifier or option; and for a value that one of them
    does not take.
    """
    (name, texts), *around = split_parts(spec)
    if name in NATIVE:
        return None
    values = dict(defaults) | _values(name, texts)
    if guidance_scale is not None and "guidance_scale" in inspect.signature(_row(name).load()).parameters:
        values["guidance_scale"] = guidance_scale
    rule = _made(name, values)
    for modifier, own in around:
        rule = _made(modifier, _values(modifier, own) | {"rule": rule})
    return rule


def rule_options(name: str) -> dict[str, Option]:
    """The options of a rule or modifier by name: the arguments of its class but scale and rule. Imports torch."""
    cls = _row(name).load()
    hints = get_type_hints(cls.__init__)
    given = [p for p in inspect.signature(cls).parameters.values() if p.name not in ("guidance_scale", "rule")]
    return {p.name: Option(p.name, str if p.name == "reward" else hints.get(p.name, str), p.default) for p in given}


def rule_name(rule: Guidance | None) -> str:
    """The short name of a rule, without what goes around it; "native" for None; the name of its class for a rule that
    is not in the table.
    """
    return _parts(rule)[0][0]


def option_values(rule: Guidance | None) -> dict[str, Any]:
    """The values of all options of a rule in the table, those at their defaults too; {} for any other rule."""
    return _parts(rule)[0][1]


def modifier_values(rule: Guidance | None) -> dict[str, dict[str, Any]]:
    """What goes around a rule, by name, with the values of all options."""
    return dict(_parts(rule)[1:])


def guidance_spec(rule: Guidance | None) -> str:
    """The canonical spelling of a rule: names, and the options that are not at their defaults."""
    return join_parts([(name, _changed(name, values)) for name, values in _parts(rule)])


@functools.lru_cache(maxsize=4)
def named_reward(name: str) -> Any:
    """The reward of a name, loaded once, on the CPU. UserError as `load_reward`."""
    from .rewards import load_reward

    reward = load_reward(name, device="cpu")
    reward.spelled = name  # type: ignore[attr-defined]
    return reward


def place_rewards(rule: Guidance | None, device: Any) -> None:
    """Bring the models of a rule's rewards to a device."""
    for layer in layers_of(rule):
        move = getattr(getattr(layer, "reward", None), "to", None)
        if move is not None:
            move(device)


def _row(name: str) -> Rule:
    return MODIFIERS[name] if name in MODIFIERS else RULES[name]


def _values(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """The values of options given as text."""
    if "guidance_scale" in texts:
        raise UserError(f"the scale of rule {name!r} is not one of its options: it is given by --guidance-scale")
    options = rule_options(name)
    for key in texts:
        if key not in options:
            raise unknown(f"option of rule {name!r}", key, options)
    return {
        key: parse_value(f"option {key!r} of rule {name!r}", text, options[key].type) for key, text in texts.items()
    }


def _made(name: str, values: dict[str, Any]) -> Guidance:
    for option in rule_options(name).values():
        if option.default is _REQUIRED and option.name not in values:
            raise UserError(f"rule {name!r} needs its option {option.name!r}: {name}:{option.name}=...")
    if "reward" in values:
        values = values | {"reward": named_reward(values["reward"])}
    try:
        return _row(name).load()(**values)
    except ValueError as error:
        raise UserError(f"rule {name!r}: {one_line(error)}") from error


def _parts(rule: Guidance | None) -> list[tuple[str, dict[str, Any]]]:
    """Names and values of all options, the rule first; a modifier that stands alone takes its place."""
    layers = layers_of(rule)
    if len(layers) > 1 and layers[0].acts_alone:
        layers = layers[1:]
    return [_named(layer) for layer in layers] or [(NATIVE[0], {})]


def layers_of(rule: Any) -> list[Any]:
    """A rule and what goes around it, from the inside out; [] for None."""
    layers = []
    while rule is not None:
        layers.append(rule)
        rule = getattr(rule, "rule", None)
    return layers[::-1]


def _named(rule: Any) -> tuple[str, dict[str, Any]]:
    names = [name for name, row in (RULES | MODIFIERS).items() if type(rule) is row.load()]
    if not names:
        return type(rule).__name__, {}
    values = {key: getattr(rule, key) for key in rule_options(names[0])}
    values |= {key: format_value(value) for key, value in values.items() if isinstance(value, tuple)}
    if "reward" in values:
        values["reward"] = getattr(rule.reward, "spelled", rule.reward.name)
    if "coefficients" in values:  # as they can be written down: the file that they were read from, if it was one
        values = {"coefficients": rule.source} if rule.source else {}
    return names[0], values


def _changed(name: str, values: dict[str, Any]) -> dict[str, Any]:
    if name not in RULES and name not in MODIFIERS:
        return {}
    options = rule_options(name)
    return {key: value for key, value in values.items() if value != options[key].default}
