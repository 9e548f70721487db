"""What rule_cost.py measures: every rule of diffguide, the guiders of diffusers that do the same, and plain sums."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffguide import guidance
from diffguide.guidance import Guidance, Step

W, STEPS, INDEX = 7.5, 20, 11

LINEAR: dict[str, dict[str, Any]] = {
    "ClassifierFreeGuidance": {},
    "ClassifierFreeGuidance rescaled": {"guidance_rescale": 0.7},
    "AdaptiveProjectedGuidance": {},
    "RatioAwareAdaptiveGuidance": {},
    "AdaptiveGuidance": {"threshold": 2.0},
    "ClassifierFreeZeroStarGuidance": {},
    "ClassifierFreeGuidancePlusPlus": {},
    "TangentialClassifierFreeGuidance": {},
    "BetaClassifierFreeGuidance": {},
}
"""Rules that are linear in a few tensors, with the options that are not their defaults."""

AROUND = ("Interval", "Scheduled", "Rescale", "NormMatching", "Renorm", "EnergyPreserving")
"""Modifiers, linear too; each is measured around plain guidance."""

OTHERS = ("FrequencyDecoupledGuidance", "DynamicThresholding", "ReflectingWall", "LinearAdaptiveGuidance")
"""Pyramids, quantiles and clips; and a sum over the history of sampling, which stands in for an evaluation."""

PEERS: dict[str, dict[str, Any]] = {
    "ClassifierFreeGuidance": {},
    "AdaptiveProjectedGuidance": {"adaptive_projected_guidance_momentum": -0.5, "eta": 0.0},
    "ClassifierFreeZeroStarGuidance": {},
    "TangentialClassifierFreeGuidance": {},
    "MagnitudeAwareGuidance": {},
    "FrequencyDecoupledGuidance": {},
}


@dataclass
class Contender:
    """One way to combine two predictions. run: the call that is timed. linear: the target of 3x applies.

    traced: the same, and the numbers of its trace taken. broken: why it cannot run here.
    """

    name: str
    run: Callable[[], Any] = field(repr=False)
    linear: bool = False
    traced: Callable[[], Any] | None = field(default=None, repr=False)
    broken: str = ""


def contenders(cond: Tensor, uncond: Tensor, latents: Tensor) -> Iterator[Contender]:
    """All of them on these tensors, each warmed by a first call, so that what it remembers is there."""
    yield Contender("plain", lambda: uncond + W * (cond - uncond))
    yield Contender("torch.add", lambda: torch.add(uncond, cond))
    classes = rules()
    for name, options in LINEAR.items():
        yield _ours(name, classes[name.split()[0]](guidance_scale=W, **options), (cond, uncond, latents), True)
    plain = classes["ClassifierFreeGuidance"](W)
    for name in AROUND:
        yield _ours(f"{name}(ClassifierFreeGuidance)", classes[name](plain), (cond, uncond, latents), True)
    for name in OTHERS[:3]:
        options = {} if name == "FrequencyDecoupledGuidance" else {"rule": plain}
        yield _ours(name, classes[name](**options), (cond, uncond, latents), False)
    yield _linear_ag(classes["LinearAdaptiveGuidance"], (cond, uncond, latents))
    for name, options in PEERS.items():
        yield _peer(name, options, cond, uncond)


def rules() -> dict[str, type[Guidance]]:
    """Every rule and modifier in diffguide.guidance, by the name of its class."""
    found: dict[str, type[Guidance]] = {}
    for module in pkgutil.iter_modules(guidance.__path__, "diffguide.guidance."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(value) and issubclass(value, Guidance) and not name.startswith("_"):
                found[name] = value
    return found


def _ours(name: str, rule: Guidance, tensors: tuple[Tensor, ...], linear: bool) -> Contender:
    step = _step()
    rule.guide(*tensors, step)
    return Contender(
        f"diffguide {name}",
        lambda: rule.guide(*tensors, step)[0],
        linear,
        lambda: rule.guide(*tensors, step)[1].numbers(),
    )


def _linear_ag(kind: Any, tensors: tuple[Tensor, ...]) -> Contender:
    """The estimate in the middle of sampling, from 12 conditional predictions and 5 unconditional ones."""
    numbers, evaluated = random.Random(0), [index % 2 == 0 and index < STEPS / 2 for index in range(STEPS)]
    rows = tuple(
        ()
        if evaluated[index]
        else tuple(
            tuple(numbers.uniform(-0.1, 0.1) for _ in range(count)) for count in (index + 1, sum(evaluated[:index]))
        )
        for index in range(STEPS)
    )
    coefficients = guidance.Coefficients(rows, "", "", STEPS, "flow", W, 1, (0.0,) * STEPS)
    rule, (cond, uncond, latents), state = kind(W, coefficients), tensors, {}
    for index in range(INDEX):
        earlier = _step(index, state)
        if evaluated[index]:
            rule.guide(cond.clone(), uncond.clone(), latents, earlier)
        else:
            rule.guide_cond(cond.clone(), latents, earlier)
    kept = {name: list(value) if isinstance(value, list) else value for name, value in state.items()}

    def run() -> Tensor:
        return rule.guide_cond(cond, latents, restored())

    def traced() -> Any:
        step = restored()
        rule.guide_cond(cond, latents, step)
        return step.measured.numbers()

    def restored() -> Step:
        return _step(INDEX, {name: list(v) if isinstance(v, list) else v for name, v in kept.items()})

    return Contender("diffguide LinearAdaptiveGuidance, an estimate", run, False, traced)


def _step(index: int = INDEX, state: dict[str, Any] | None = None) -> Step:
    """A step in the middle of a flow model's sampling, with numbers as the engine has them."""
    sigma = 1 - index / STEPS
    maps = (1.0, -sigma), (1.0, 1 - sigma)
    ahead = 1 - sigma + 1 / STEPS, sigma - 1 / STEPS
    return Step(index, STEPS, 1000 * sigma, sigma, "flow", *maps, state={} if state is None else state, kernel=ahead)


def _peer(name: str, options: dict[str, Any], cond: Tensor, uncond: Tensor) -> Contender:
    from diffusers import guiders

    logging.getLogger("diffusers.guiders").setLevel(logging.ERROR)  # each says that guiders are experimental
    contender = Contender(f"diffusers {name}", lambda: None)
    try:
        guider = getattr(guiders, name)(**options)
        guider.set_state(step=INDEX, num_inference_steps=STEPS, timestep=torch.tensor(500))
        if "adaptive_projected_guidance_momentum" in options:
            from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

            guider.momentum_buffer = MomentumBuffer(options["adaptive_projected_guidance_momentum"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            guider.forward(cond, uncond)
    except (AttributeError, ImportError, RuntimeError, ValueError, IndexError, TypeError) as error:
        contender.broken = f"{type(error).__name__}: {' '.join(str(error).split())[:110]}"
        return contender
    contender.run = lambda: guider.forward(cond, uncond)[0]
    return contender
