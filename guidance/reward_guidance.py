"""Guidance by the gradient of a reward, after whatever rule; denoised space.

The backward step of Universal Guidance (Bansal et al., arXiv 2302.07121), with the gradient optionally through the
denoiser, as in its forward step and in FreeDoM (Yu et al., arXiv 2303.09833), inside a trust region in the sense of
ROCM (Shekhar & Zhang, arXiv 2503.06171):

    g = grad R(decode(x0));  x0' = x0 + strength weight g / RMS(g);  D(N(a x0', s^2 I), N(a x0, s^2 I)) <= bound
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .ascent import Ascent
from .base import Guidance
from .basis import Scalar
from .checks import finite, share, whole
from .measurement import Measurement
from .modifiers import Modifier
from .reward import as_reward
from .reward_gradient import bent, gradients, ordinary, scored
from .step import Step
from .tensors import inner, per_sample, precise
from .trust_region import Region, TrustRegion

WEIGHTS = ("constant", "noise", "signal")


class Conditional(Guidance):
    """The conditional prediction alone: the rule that a reward goes after where there is none."""

    acts_alone = True

    def __init__(self) -> None:
        super().__init__(1.0)

    def needs_uncond(self, step: Step) -> bool:
        """Never."""
        return False

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """The conditional prediction, where a pipeline has made both all the same."""
        return cond, Measurement.of_scale(cond, uncond, 1.0)


class RewardGuidance(Modifier):
    """The denoised prediction of each step, moved to where a reward is higher.

    Per sample, over all dimensions but the first: x0 = a z + b prediction, of the conditional prediction or of what
    `rule` and all its corrections made of it, goes along the gradient of the reward, normalised to an RMS of 1, and the
    prediction by (x0' - x0) / b. It is the last of the stages, whatever the order written: corrections before it answer
    for the excess of guidance and would undo the move, and after it the bound would no longer hold.

    Args:
        reward: see `Reward`; any callable of images (B, 3, H, W) in [0, 1], or of images and a list of B prompts, that
            gives (B,), higher is better, each entry from its own row alone. In the space "latent", of x0 itself.
        strength: RMS of the move of x0 in one step, in units of x0, where neither line search nor bound shortens it.
            Default 0.1. 0 is `rule` bit for bit, at no cost.
        rule: the rule that comes before. None (default): the conditional prediction, one evaluation a step, also in
            pipelines that make no unconditional prediction.
        ascent_steps: gradients per step, each at the point that the last one led to, each for an equal part of the
            move. Default 1.
        start, stop: as in `Interval`, for the reward alone: evaluation i of n is rewarded when start <= i / n < stop.
            Default 0 and 1. An `Interval` around leaves out both the reward and the rule.
        weight: factor on the strength by noise level: "constant" (default, 1), "noise", the share of noise in the model
            input, in [0, 1] (Universal Guidance's sqrt(1 - alpha-bar)), "signal", that of x0, or a function of the
            share of noise, a number or a tensor of no dimension or (B,).
        through_denoiser: the gradient with respect to the model input, by one more evaluation of the denoiser a step:
            the reward's times the Jacobian of x0, which in an exact denoiser is the covariance of x0 given the model
            input, up to a factor, so that the move stays among likely images. Default False.
        line_search: evaluations of the reward, without gradient, per gradient: the first at the whole move, each
            further one at the top of the parabola through the last; the best is taken, and no move where none is better
            than none. 2 find the optimum of a quadratic reward, so that it is not overshot; CLIP's cosine on emoji-lcm
            needs up to 4 (default): with 2, a third of the images did not move at a strength of 0.3. 0: the whole
            move, unseen.
        kl, hellinger, js, tv, fisher: the largest divergence, at most one of them, between the step's Gaussian
            N(a x0, s^2 I) at the next noise level (`Step.kernel`) with and without the move; see `divergence`. Default
            None: no bound.
        per_dimension: the divergence by delta^2 over the number of elements of a sample. A total bound, the definition,
            allows ever smaller moves of each element the larger the sample, and bounded divergences saturate. Default
            False.
        floor: the least s that counts under a bound. At the last step s is 0 and every move infinitely far. Default
            0.03, the noise at the first training timestep of Stable Diffusion (0.0292); 0: no move there.

    A gradient that is 0 or not finite moves nothing. Nothing is kept between steps. Beside the fields of other rules
    the trace has `reward`, `reward_after`, `move_norm`, `divergence` (KL where none is bounded) and `kernel`.

    Raises:
        ValueError: an option is out of range, more than one bound, a reward that is not differentiable, or, at the
            first step, a pipeline without what is needed (decoder, prompts, x0, `Step.kernel`, `Step.evaluate`).
    """

    order = 1000
    space = "denoised"
    outside = False

    def __init__(
        self,
        reward: Any,
        strength: float = 0.1,
        rule: Guidance | None = None,
        *,
        ascent_steps: int = 1,
        start: float = 0.0,
        stop: float = 1.0,
        weight: Literal["constant", "noise", "signal"] | Callable[[Scalar], Scalar] = "constant",
        through_denoiser: bool = False,
        line_search: int = 4,
        kl: float | None = None,
        hellinger: float | None = None,
        js: float | None = None,
        tv: float | None = None,
        fisher: float | None = None,
        per_dimension: bool = False,
        floor: float = 0.03,
    ):
        super().__init__(Conditional() if rule is None else rule)
        self.reward = as_reward(reward)
        if not self.reward.differentiable:
            raise ValueError(
                f"reward {self.reward.name!r} has no gradient to follow: take the best of n pictures by it, or search "
                "the initial noise (ZO-RankSGD), which need none"
            )
        self.strength = _at_least_0("strength", strength)
        self.ascent_steps = whole("ascent_steps", ascent_steps, 1)
        self.line_search = whole("line_search", line_search, 0)
        self.start, self.stop = share(start, stop)
        if not callable(weight) and weight not in WEIGHTS:
            raise ValueError(f"weight is {', '.join(map(repr, WEIGHTS))} or a function, not {weight!r}")
        self.weight, self.through_denoiser = weight, through_denoiser
        self.kl, self.hellinger, self.js, self.tv, self.fisher = kl, hellinger, js, tv, fisher
        self.per_dimension, self.floor = per_dimension, _at_least_0("floor", floor)
        bounds = {"kl": kl, "hellinger": hellinger, "js": js, "tv": tv, "fisher": fisher}
        self._trust = TrustRegion(bounds, self.per_dimension, self.floor)

    def correct(self, guided: Tensor, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        """The prediction of the x0 that was moved, in the dtype of `guided`."""
        if not self.strength or not step.within(self.start, self.stop):
            return guided
        a, b = step.to_space(self.space)
        region = self._trust.at(step, guided)
        if (isinstance(b, float) and b == 0) or (region is not None and region.closed):
            return guided
        ascent = Ascent(self.ascent_steps, self.line_search)
        length = per_sample(self.strength * self._factor(step), latents)
        radius = None if region is None else region.radius_of(latents)
        with gradients():
            a, b = (ordinary(per_sample(scalar, latents)) for scalar in (a, b))
            z = precise(latents.detach().clone())
            x0 = a * z + b * precise(guided.detach())
            bend = bent(step, z, a, b, latents.dtype) if self.through_denoiser else None
            move, first, last = ascent.climb(scored(self.reward, step, guided.dtype), x0, length, radius, bend)
        self._record(move, first, last, region, step)
        change = move / b if isinstance(b, float) else torch.where(b == 0, 0.0, move / b)
        moved = (precise(guided) + change).to(guided.dtype)
        if step.measured is None:
            step.measured = Measurement.of_move(cond, moved)
        return moved

    def _factor(self, step: Step) -> Scalar:
        if self.weight == "constant":
            return 1.0
        if step.denoised is None or step.noise is None:
            raise ValueError('this scheduler states no share of noise: use weight="constant"')
        (a, b), (p, q) = step.denoised, step.noise
        determinant = a * q - b * p
        if self.weight == "signal":
            return q / determinant
        noise = -b / determinant
        return self.weight(noise) if callable(self.weight) else noise

    def _record(self, move: Tensor, first: Tensor, last: Tensor | None, region: Region | None, step: Step) -> None:
        norm = inner(move, move).sqrt().flatten()
        step.numbers |= {"reward": first, "move_norm": norm}
        if last is not None:
            step.numbers["reward_after"] = last
        if region is not None and step.kernel is not None:
            kernel = dict(zip(("kernel_a", "kernel_s"), step.kernel))
            step.numbers |= {"divergence": region.divergence(norm), **kernel}


def _at_least_0(name: str, value: float) -> float:
    if finite(name, value) < 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")
    return float(value)
