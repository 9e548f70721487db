"""Linear adaptive guidance: Castillo et al., arXiv 2312.12487 (AAAI 2025), Section 5.

The unconditional prediction of a step is close to a linear combination of the predictions that sampling has made
already, with the same coefficients for every image; where it is, its evaluation can be left out.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .base import Guidance
from .coefficients import Coefficients, Trajectories
from .measurement import Measurement
from .step import Step
from .tensors import precise


class LinearAdaptiveGuidance(Guidance):
    """Plain guidance in which the unconditional prediction of most steps is estimated, at the cost of none.

    At step t the estimate is sum_i a_i c_i + sum_j b_j u_j over the conditional predictions c_i of all steps up to t
    and the unconditional ones u_j of the steps that evaluated it; scalars a and b per step, fitted by least squares.
    (The paper also feeds estimates back. They lie in the span of these, so the fit is the same without.) As in the
    paper, the first half of the steps alternates, beginning with an evaluation, and the second half is estimated: 25
    evaluations at 20 steps. In prediction space, which for epsilon models is the paper's.

    Coefficients hold for the model, the scheduler, the number of steps, their noise levels and the prediction type that
    they were fitted for; with others the rule refuses to run, as far as the pipeline says what it is (one put together
    in memory has no name). They hold for the empty negative prompt too: with another one there is a warning.
    Predictions of all steps are kept until the end of sampling.

    Args:
        guidance_scale: w. Default 7.5. Coefficients do not depend on it, but on the trajectories, which do: fit at the
            scale of use.
        coefficients: what `Coefficients.fit` returns, or the path of a file that `Coefficients.save` wrote. Needed.

    Raises:
        ValueError: the scale is not a finite number, the file is not one of coefficients, or, while sampling, it was
            fitted for something else.
    """

    interruptible = False
    takes_negative = False

    def __init__(self, guidance_scale: float = 7.5, coefficients: Coefficients | str | Path | None = None):
        super().__init__(guidance_scale)
        self.source = str(coefficients) if isinstance(coefficients, (str, Path)) else None
        if isinstance(coefficients, (str, Path)):
            coefficients = Coefficients.load(coefficients)
        if not isinstance(coefficients, Coefficients):
            raise ValueError(
                "linear adaptive guidance needs coefficients fitted for the model: make them with "
                "`diffguide calibrate linear-ag`, and give the file as `coefficients`"
            )
        self.coefficients = coefficients

    @classmethod
    def fit(cls, trajectories: Trajectories, guidance_scale: float, step: Step) -> LinearAdaptiveGuidance:
        """The rule with the coefficients of `trajectories`, which were sampled at this scale.

        step: any step of theirs, for what they are fitted to. ValueError: no trajectory was added.
        """
        return cls(guidance_scale, Coefficients.fit(trajectories, guidance_scale, step))

    def needs_uncond(self, step: Step) -> bool:
        """At the steps whose unconditional prediction is not estimated."""
        self.coefficients.check(step)
        return self.guidance_scale != 1 and not self.coefficients.estimates(step.index)

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """Plain guidance; both predictions are remembered."""
        c, u = precise(cond), precise(uncond)
        step.state.setdefault("cond", []).append(_kept(cond))
        step.state.setdefault("uncond", []).append(_kept(uncond))
        return self._guided(c, u, cond.dtype)

    def guide_cond(self, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """Plain guidance on the estimate."""
        if self.guidance_scale == 1:
            return cond
        c = precise(cond)
        step.state["cond"].append(_kept(cond))
        a, b = self.coefficients.rows[step.index]
        estimate = torch.zeros_like(c)
        for coefficient, tensor in zip([*a, *b], [*step.state["cond"], *step.state["uncond"]], strict=True):
            estimate.add_(tensor, alpha=coefficient)
        step.decision = "estimated"
        guided, step.measured = self._guided(c, estimate, cond.dtype)
        return guided

    def _guided(self, c: Tensor, u: Tensor, dtype: torch.dtype) -> tuple[Tensor, Measurement]:
        difference = c - u
        guided = torch.add(u, difference, alpha=self.guidance_scale)
        return guided.to(dtype), Measurement.of_tensors(c, difference, guided)


def _kept(prediction: Tensor) -> Tensor:
    """A copy: the memory of a prediction is the denoiser's, which writes to it again if it runs as a CUDA graph."""
    return precise(prediction.clone() if precise(prediction) is prediction else prediction)
