"""The bridge to the guiders of diffusers: theirs in classic pipelines, our rules wherever a guider has its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffguide.guidance import Guidance

from .errors import UserError

if TYPE_CHECKING:
    from .calls import Call
    from .guiders_passes import Passes
    from .guiders_slot import RuleGuider


def as_guider(rule: Guidance, scheduler: Any) -> RuleGuider:
    """A rule as a guider of diffusers, for Modular pipelines and others with a place for a guider.

    Args:
        rule: any rule that acts on predictions.
        scheduler: that of the pipeline; guiders are not told, and a rule needs its noise levels. One that is put into
            the pipeline later has to be set here too: `guider.scheduler = ...`.

    Returns:
        A guider, whose `trace` is that of the last call. A call of the pipeline begins where its steps begin at 0.

    Raises:
        ValueError: `rule` is not a Guidance, or acts on the latents after a step, where guiders have no place.

    Example::

        modular.update_components(guider=as_guider(AdaptiveProjectedGuidance(10.0), modular.scheduler))
        images = modular(prompt="red apple", output="images")
    """
    from .guiders_slot import RuleGuider

    return RuleGuider(rule, scheduler)


def is_guider(value: Any) -> bool:
    """Whether this is a guider of diffusers. (By name: looking must not cost the import.)"""
    return any(
        cls.__name__ == "BaseGuidance" and cls.__module__.startswith("diffusers.") for cls in type(value).__mro__
    )


class GuiderRule(Guidance):
    """A guider of diffusers as a rule, in the pipelines of the table; see `guiders_repair` for what it corrects.

    Args:
        guider: SkipLayerGuidance, PerturbedAttentionGuidance, AutoGuidance or any other, which is copied at each call.
    """

    def __init__(self, guider: Any):
        scale = getattr(guider, "guidance_scale", None)
        super().__init__(float(max(guider.guidance_scales) if scale is None else scale))
        self.guider = guider

    def passes(self, call: Call) -> Passes:
        """What stands in place of `call` at the hooks of the denoiser, and is its rule."""
        from .guiders_passes import Passes

        return Passes(call, self.guider)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.guider).__name__})"


def as_rule(rule: Any) -> Guidance:
    """A Guidance, or a guider of diffusers as one; UserError for anything else."""
    if isinstance(rule, Guidance):
        return rule
    if is_guider(rule):
        return GuiderRule(rule)
    raise UserError(f"a rule is an instance of a Guidance class or a guider of diffusers, not {rule!r}")
