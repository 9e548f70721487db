"""What a rule may know about the evaluation it acts on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .basis import Scalar

if TYPE_CHECKING:
    from .measurement import Measurement


@dataclass
class Step:
    """One guided evaluation of the denoiser.

    index: guided evaluations before this one in the same sampling (a second-order solver has two a step). A call of a
    pipeline is one sampling, save where it makes several, one after another: sections of a video, FreeInit.
    total: evaluations expected in this sampling. timestep: what the model was given. sigma: the noise level as the
    scheduler states it, standard deviation over signal for diffusion, share of noise for flow matching.
    prediction: "epsilon", "v_prediction", "sample" or "flow".
    denoised: (a, b) with x0 = a z + b prediction, and noise: (p, q) with eps = p z + q prediction, z being the model
    input in the training parametrisation. None where the scheduler gives no such numbers.
    model, scheduler: the name of the model, as it was loaded, and of the scheduler's class; "" where nobody says.
    kernel: (a, s) of the step's Gaussian N(a x0, s^2 I), the forward process at the next noise level in the training
    parametrisation; s is 0 at the last step. None where the scheduler gives no such numbers.
    renewal: the power of r'/r, noise over signal at the next level and at this one, that the step keeps of the noise
    that there is; the rest it draws anew. 1: none is drawn; 2: an ancestral step; inf: all of it.
    prompts: the text of each of the B rows; () where the pipeline was called without texts.
    exact: whether the last bit of the guided prediction matters, as it does where the pipeline goes on with it. Under a
    correction that multiplies all of it a rule may take a cheaper way to the same number.
    decode: x0 (B, ...), shaped as the model input, to images (B, 3, H, W) in [0, 1], with gradients, not clipped
    away; None where the pipeline has no decoder. evaluate: the conditional prediction (B, ...) for another model input,
    with gradients, at the cost of one evaluation; None where the pipeline cannot be asked for it.
    state: empty at the start of each sampling; what a rule remembers between steps lives here, not on it.

    decision, measured: for the trace, set by a rule. What it did, as one word for all samples or as (B,) booleans that
    are true where a sample got its conditional prediction alone; and what it measured on a step without an
    unconditional evaluation. extra_evaluations: those made through `evaluate`, counted by the rule that made them and
    added to the trace's by `Trace.append`. numbers: further ones for the trace, tensors (B,) or of no dimension.
    """

    index: int = 0
    total: int = 1
    timestep: Scalar = 0.0
    sigma: Scalar | None = None
    prediction: str = "epsilon"
    denoised: tuple[Scalar, Scalar] | None = None
    noise: tuple[Scalar, Scalar] | None = None
    state: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    scheduler: str = ""
    kernel: tuple[Scalar, Scalar] | None = None
    renewal: float = 1.0
    prompts: tuple[str, ...] = ()
    exact: bool = True
    decode: Callable[[Tensor], Tensor] | None = None
    evaluate: Callable[[Tensor], Tensor] | None = None
    decision: str | Tensor | None = None
    measured: Measurement | None = None
    extra_evaluations: int = 0
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """0 at the first evaluation, 1 at the last."""
        return self.index / max(self.total - 1, 1)

    def within(self, start: float, stop: float) -> bool:
        """Whether start <= i / n < stop for this evaluation, number i of n."""
        return start <= self.index / self.total < stop

    def to_space(self, space: str) -> tuple[Scalar, Scalar]:
        """(a, b) with `space = a z + b prediction`; ValueError for a space that this step does not have."""
        if space == "prediction":
            return 0.0, 1.0
        pair = {"denoised": self.denoised, "noise": self.noise}.get(space)
        if space not in ("denoised", "noise"):
            raise ValueError(f'a rule\'s space is "prediction", "denoised" or "noise", not {space!r}')
        if pair is None:
            raise ValueError(
                f"this scheduler gives no way from its {self.prediction} prediction to the {space} space; "
                'use a rule that works in the "prediction" space, or another scheduler'
            )
        return pair
