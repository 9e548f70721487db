"""Composition by stage: **when** (schedule, interval), **combine** (the rule), **correct** (rescale, ...).

A modifier goes around a rule, or around a rule with modifiers already; in whatever order they are written, they act in
the order of their stages: `Rescale(Interval(rule))` and `Interval(Rescale(rule))` are the same.
"""

from __future__ import annotations

import copy
from operator import attrgetter
from typing import ClassVar

from torch import Tensor

from .base import Guidance
from .cfg import rescaled
from .checks import finite
from .measurement import Measurement
from .step import Step


class Modifier(Guidance):
    """What surrounds a rule and leaves its formula as it is. `guidance_scale` is that of the rule.

    Args:
        rule: the rule that is modified, or such a rule with modifiers of its own.

    Raises:
        ValueError: `rule` is not a Guidance, or has a modifier of this kind already, or cannot be modified so.
    """

    order: ClassVar[int]
    """The place among the modifiers, lowest first; below 0 before the rule, from 0 after it. Of two in one place the
    inner one acts first.
    """

    outside: ClassVar[bool] = True
    """Whether `correct` acts on the conditional prediction, too, where another modifier leaves the rule out."""

    def __init__(self, rule: Guidance):
        if not isinstance(rule, Guidance):
            kind = type(rule)
            what = repr(rule) if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__name__}"
            raise ValueError(f"{type(self).__name__} goes around a rule, not around {what}")
        inner = rule.modifiers if isinstance(rule, Modifier) else []
        if any(type(other) is type(self) for other in inner):
            raise ValueError(f"{rule!r} has a {type(self).__name__} already; one is enough")
        self.rule = rule
        if self.order >= 0 and self.core.acts_inside:
            raise ValueError(
                f"{type(self.core).__name__} makes nothing of two predictions, which {type(self).__name__} goes by"
            )
        if self.order < 0 and not self.core.interruptible:
            raise ValueError(
                f"{type(self.core).__name__} goes on from every step, and {type(self).__name__} can leave some out"
            )

    @property
    def modifiers(self) -> list[Modifier]:
        """This modifier and those inside it, in the order in which they act."""
        found, rule = [self], self.rule
        while isinstance(rule, Modifier):
            found.append(rule)
            rule = rule.rule
        found.reverse()
        return sorted(found, key=attrgetter("order"))

    @property
    def core(self) -> Guidance:
        """The rule without its modifiers."""
        rule = self.rule
        while isinstance(rule, Modifier):
            rule = rule.rule
        return rule

    @property
    def guidance_scale(self) -> float:  # type: ignore[override]
        """That of the rule."""
        return self.rule.guidance_scale

    @property
    def acts_after_step(self) -> bool:
        """As the rule."""
        return self.rule.acts_after_step

    @property
    def acts_alone(self) -> bool:  # type: ignore[override]
        """As the rule without its modifiers."""
        return self.core.acts_alone

    @property
    def acts_inside(self) -> bool:  # type: ignore[override]
        """As the rule without its modifiers."""
        return self.core.acts_inside

    def with_scale(self, guidance_scale: float) -> Guidance:
        """The same modifier around the same rule at another scale."""
        other = copy.copy(self)
        other.rule = self.rule.with_scale(guidance_scale)
        return other

    def active(self, step: Step) -> bool:
        """Whether the rule acts at this step; where not, it is conditional, without an unconditional evaluation."""
        return True

    def scale(self, guidance_scale: float, step: Step) -> float:
        """The scale of the rule at this step, given the one it would have."""
        return guidance_scale

    def correct(self, guided: Tensor, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """What becomes of a guided prediction (B, ...), in the prediction space."""
        return guided

    @property
    def changes_all(self) -> bool:
        """Whether `correct` leaves no number as it is, so that the last bit of what it is given does not matter."""
        return False

    def needs_uncond(self, step: Step) -> bool:
        """As the rule at the scale of this step; not where a modifier leaves it out."""
        modifiers = self.modifiers
        return all(modifier.active(step) for modifier in modifiers) and self._at(step, modifiers).needs_uncond(step)

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """The rule at the scale of this step, then the corrections."""
        modifiers = self.modifiers
        step.exact = not any(modifier.changes_all for modifier in modifiers)
        guided, measured = self._at(step, modifiers).guide(cond, uncond, latents, step)
        step.exact = True
        corrected = _corrected(modifiers, guided, cond, latents, step)
        return corrected, measured if corrected is guided else measured.corrected(corrected)

    def guide_cond(self, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """The conditional prediction where a modifier leaves the rule out, else what the rule makes of it."""
        modifiers = self.modifiers
        inside = all(modifier.active(step) for modifier in modifiers)
        guided = self._at(step, modifiers).guide_cond(cond, latents, step) if inside else cond
        acting = [modifier for modifier in modifiers if inside or modifier.outside]
        corrected = _corrected(acting, guided, cond, latents, step)
        if step.measured is not None and corrected is not guided:
            step.measured = step.measured.corrected(corrected)
        return corrected

    def attend(self, positive: Tensor, negative: Tensor, step: Step) -> Tensor:
        """As the rule at the scale of this step, which is one that `needs_uncond`."""
        return self._at(step, self.modifiers).attend(positive, negative, step)

    def after_step(self, latents: Tensor, step: Step) -> Tensor:
        """As the rule; nothing where a modifier leaves it out."""
        modifiers = self.modifiers
        if not all(modifier.active(step) for modifier in modifiers):
            return latents
        return self._at(step, modifiers).after_step(latents, step)

    def _at(self, step: Step, modifiers: list[Modifier]) -> Guidance:
        """The rule without modifiers at the scale that they give it at this step."""
        core = self.core
        scale = core.guidance_scale
        for modifier in modifiers:
            scale = modifier.scale(scale, step)
        return core if scale == core.guidance_scale else core.with_scale(scale)


def _corrected(modifiers: list[Modifier], guided: Tensor, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
    if step.decision == "zeroed":
        return guided  # a velocity of zero is a standstill, not a prediction to correct
    for modifier in modifiers:
        guided = modifier.correct(guided, cond, latents, step)
    return guided


class Correction(Modifier):
    """A modifier that acts on the guided prediction; subclasses override `correct`, and `order` to act earlier."""

    order = 100


class Rescale(Correction):
    """A share of the guided prediction brought back to the standard deviation of the conditional one.

    Lin et al., arXiv 2305.08891, Section 3.4. Around `ClassifierFreeGuidance` it is diffusers' `guidance_rescale`.

    Args:
        rule: the rule.
        phi: the share, in [0, 1]; 0.7 (default) is the paper's.

    Raises:
        ValueError: also for a phi outside [0, 1].
    """

    order = 10

    def __init__(self, rule: Guidance, phi: float = 0.7):
        super().__init__(rule)
        self.phi = finite("phi", phi)
        if not 0 <= self.phi <= 1:
            raise ValueError(f"phi must be between 0 and 1, not {phi!r}")
        if getattr(self.core, "guidance_rescale", 0.0):
            raise ValueError(f"{self.core!r} is rescaled already: leave its guidance_rescale out")

    @property
    def changes_all(self) -> bool:
        """Not with a share of nothing."""
        return self.phi != 0

    def correct(self, guided: Tensor, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """Equations 15 and 16 of the paper."""
        return guided if guided is cond or not self.phi else rescaled(guided, cond, self.phi)
