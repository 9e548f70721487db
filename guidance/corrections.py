"""Corrections: what some pipelines do to the guided prediction on their own account, as modifiers around any rule.

Under a rule the pipeline's own correction acts on a prediction that is already guided and equals both of its inputs,
so it does nothing; put around the rule here, it does what the pipeline would have done.
"""

from __future__ import annotations

from torch import Tensor

from .base import Guidance
from .step import Step
from .trace import Measurement


class NormMatching(Guidance):
    """The guided prediction brought back to the norm of the conditional one, as Qwen-Image does after its CFG.

    `NormMatching(ClassifierFreeGuidance(4.0))` is Qwen-Image's native guidance.

    Args:
        rule: the rule that is corrected.
        dim: the dimension over which norms are taken; -1 (default), the channels of a token, as Qwen-Image has it.

    Raises:
        ValueError: `rule` is not a Guidance.
    """

    def __init__(self, rule: Guidance, dim: int = -1):
        if not isinstance(rule, Guidance):
            raise ValueError(f"NormMatching goes around a rule, not around {rule!r}")
        super().__init__(rule.guidance_scale)
        self.rule, self.dim = rule, dim

    def needs_uncond(self, step: Step) -> bool:
        """As the rule inside."""
        return self.rule.needs_uncond(step)

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """The rule inside, then one factor per token."""
        guided, _ = self.rule.guide(cond, uncond, latents, step)
        guided = guided * (cond.norm(dim=self.dim, keepdim=True) / guided.norm(dim=self.dim, keepdim=True))
        return guided, Measurement.of_tensors(cond, cond - uncond, guided)

    def guide_cond(self, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """As the rule inside."""
        return self.rule.guide_cond(cond, latents, step)
