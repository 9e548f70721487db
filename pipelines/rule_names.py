"""The short names of the rules and of what goes around them: one row each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffguide.guidance import Guidance


@dataclass(frozen=True)
class Rule:
    """One row: the class, by name in `diffguide.guidance`, the arXiv number of its paper, what it does.

    alone: for what goes around a rule: whether it does without one. required: options that have no default. own_scale:
    its scale is not one of predictions, so that what is usual for a model means nothing.
    """

    class_name: str
    paper: str
    summary: str
    alone: bool = False
    required: tuple[str, ...] = ()
    own_scale: bool = False

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
    "cfg-pp": Rule(
        "ClassifierFreeGuidancePlusPlus", "2406.08070", "CFG++: noise of the unconditional prediction, in any solver"
    ),
    "tcfg": Rule("TangentialClassifierFreeGuidance", "2503.18137", "drops what of uncond is not tangential to cond"),
    "fdg": Rule("FrequencyDecoupledGuidance", "2506.19713", "a scale for each frequency band of the latents"),
    "nag": Rule(
        "NormalizedAttentionGuidance",
        "2505.21179",
        "negative prompts inside the model's attention to texts; few-step models",
        own_scale=True,
    ),
    "beta": Rule("BetaClassifierFreeGuidance", "2502.10574", "normalised differences, most guidance in the middle"),
}

MODIFIERS: dict[str, Rule] = {
    "interval": Rule("Interval", "2404.07724", "the rule between two shares of the steps, or two noise levels"),
    "scheduled": Rule("Scheduled", "", "a scale that runs from that of the rule to another, step by step"),
    "rescale": Rule("Rescale", "2305.08891", "a share of the result back at the deviation of the conditional one"),
    "norm-matching": Rule("NormMatching", "", "the norm of the conditional prediction, token by token; Qwen-Image"),
    "renorm": Rule("Renorm", "", "the norm at most so many times that of the conditional prediction; Lumina"),
    "energy": Rule("EnergyPreserving", "2412.09966", "x0 at the energy of the conditional one (EP-CFG)"),
    "thresholding": Rule("DynamicThresholding", "2205.11487", "saturated pixels pushed inwards; models of pixels"),
    "reflecting-wall": Rule("ReflectingWall", "", "x0 folded back into [-1, 1]; models of pixels"),
    "reward": Rule(
        "RewardGuidance", "2302.07121", "x0 along the gradient of a reward; also without a rule", True, ("reward",)
    ),
}
"""What is written after a rule and a plus: `apg:eta=0+rescale:phi=0.5`. In which order makes no difference."""

NATIVE = ("native", "none")
"""Names for the pipeline's own guidance, untouched."""
