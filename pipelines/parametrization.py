"""From a scheduler to the numbers a rule needs: x0 and noise as linear functions of model input and prediction.

The model input z is always in the training parametrisation (that is what `scale_model_input` is for):

    diffusion       z = alpha x0 + s eps,  alpha^2 + s^2 = 1        flow matching   z = (1 - sigma) x0 + sigma eps

so the scheduler's own sigma at this evaluation, or its alphas_cumprod where it keeps no sigmas, decides everything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from diffguide.guidance import Step
from diffguide.guidance.basis import Scalar

from .kernels import Pair, between, kernel, renewal, share_of_angle
from .levels import Levels, integer, number, numbers, over
from .schedulers import is_flow


def prediction_type(scheduler: Any) -> str:
    """What a model under this scheduler predicts: "epsilon", "v_prediction", "sample", "flow", or "unknown"."""
    kind = scheduler.config.get("prediction_type", "unknown")
    # What Sana-Sprint's TrigFlow scheduler gets is worked out by the pipeline; its model predicts a velocity.
    return "flow" if is_flow(scheduler) or kind == "trigflow" else kind


def describe_step(
    scheduler: Any, timestep: Any, index: int, total: int, state: dict[str, Any], levels: Levels | None = None
) -> Step:
    """The Step of the evaluation that is about to be made.

    timestep: as in `scheduler.timesteps`, a number or a tensor of no dimension. levels: the scheduler's tables, kept
    from one evaluation of a call to the next. What they say becomes a number: no rule pays for a tensor of no
    dimension. Nothing is read back from the device but, at the first evaluation of a call, those tables, and by a
    scheduler its own index. A timestep on a device, in a scheduler without sigmas, leaves all that follows there.
    """
    levels = levels or Levels()
    place = _place(scheduler, timestep)
    step = _described(scheduler, timestep, index, total, state, place, levels)
    step.scheduler, step.timestep, step.sigma = type(scheduler).__name__, number(timestep), number(step.sigma)
    step.denoised, step.noise = numbers(step.denoised), numbers(step.noise)
    step.renewal = renewal(scheduler)
    step.kernel = numbers(kernel(scheduler, timestep, step.prediction, place, levels))
    return step


def _described(
    scheduler: Any, timestep: Any, index: int, total: int, state: dict[str, Any], place: int | None, levels: Levels
) -> Step:
    prediction = prediction_type(scheduler)
    if place is not None and prediction != "flow" and hasattr(type(scheduler), "precondition_inputs"):
        sigma = scheduler.sigmas[place]
        return Step(index, total, timestep, sigma, prediction, *_edm(scheduler, sigma), state)
    sigma = _sigma(scheduler, timestep, place, levels)
    denoised: Pair | None = None
    noise: Pair | None = None
    if prediction == "flow":
        if sigma is None:
            return Step(index, total, timestep, None, prediction, state=state)
        if scheduler.config.get("invert_sigmas"):  # sigma is the share of signal, and time runs the other way
            return Step(index, total, timestep, 1 - sigma, prediction, (1.0, 1 - sigma), (1.0, -sigma), state)
        return Step(index, total, timestep, sigma, prediction, (1.0, -sigma), (1.0, 1 - sigma), state)
    if type(scheduler).__name__ == "DDPMWuerstchenScheduler":  # alpha_cumprod of a timestep in [0, 1]; predicts noise
        signal, prediction = scheduler._alpha_cumprod(timestep, timestep.device), "epsilon"
        alpha, s = signal**0.5, (1 - signal) ** 0.5
        sigma = s / alpha
    elif prediction == "unknown" or (sigma is None and not hasattr(scheduler, "alphas_cumprod")):
        return Step(index, total, timestep, sigma, prediction, state=state)
    elif sigma is None:
        signal = levels.at(scheduler.alphas_cumprod, integer(timestep))
        alpha, s = signal**0.5, (1 - signal) ** 0.5
        sigma = over(s, alpha)
    else:
        alpha = (sigma * sigma + 1) ** -0.5
        s = sigma * alpha
    if prediction == "epsilon":
        denoised, noise = (over(1.0, alpha), over(-s, alpha)), (0.0, 1.0)
    elif prediction == "v_prediction":
        denoised, noise = (alpha, -s), (s, alpha)
    elif prediction == "sample":
        denoised, noise = (0.0, 1.0), (over(1.0, s), over(-alpha, s))
    if prediction == "epsilon" and scheduler.config.get("rescale_betas_zero_snr"):
        denoised = None  # at the first step alpha is 0, and the noise says nothing of x0
    return Step(index, total, timestep, sigma, prediction, denoised, noise, state)


def restated(step: Step, predicts: str) -> Step:
    """The Step where a pipeline stands between model and scheduler, as `Layout.predicts` says."""
    if predicts == "ratio" and step.sigma is not None:
        share = step.sigma / (1 + step.sigma)
        later = step.kernel and step.kernel[1] / (1 + step.kernel[1])
        ahead = None if later is None else (1 - later, later)
        return replace(step, sigma=share, denoised=(1.0, -share), noise=(1.0, 1 - share), kernel=ahead)
    if predicts == "negated" and step.denoised and step.noise:
        (a, b), (p, q) = step.denoised, step.noise
        return replace(step, denoised=(a, -b), noise=(p, -q))
    if predicts == "sample":
        return replace(step, prediction="sample", denoised=(0.0, 1.0), noise=None)
    return replace(step, denoised=None, noise=None, kernel=None) if predicts else step


def _edm(scheduler: Any, sigma: Tensor) -> tuple[Pair, Pair]:
    """Karras et al., arXiv 2206.00364: the scheduler's sample is x0 + sigma eps, the model input c_in times that.

    Read off the scheduler's own preconditioning, which is linear: x0 = c_skip sample + c_out prediction.
    """
    one, nothing = sigma.new_ones(()), sigma.new_zeros(())
    c_in = scheduler.precondition_inputs(one, sigma)
    a = scheduler.precondition_outputs(one, nothing, sigma) / c_in
    b = scheduler.precondition_outputs(nothing, one, sigma)
    return (a, b), ((1 / c_in - a) / sigma, -b / sigma)


def _place(scheduler: Any, timestep: Any) -> int | None:
    """The place of this evaluation among the scheduler's sigmas, or None where it keeps none."""
    if not isinstance(getattr(scheduler, "sigmas", None), Tensor):
        return None
    index = getattr(scheduler, "step_index", None)
    if index is None:
        index = getattr(scheduler, "begin_index", None)
    return scheduler.index_for_timestep(timestep) if index is None else index


def _sigma(scheduler: Any, timestep: Any, place: int | None, levels: Levels) -> Scalar | None:
    """The scheduler's sigma at this evaluation, or None where it keeps none."""
    if type(scheduler).__name__ == "SCMScheduler":
        return share_of_angle(timestep)
    if place is None:
        return None
    if type(scheduler).__name__ == "DPMSolverSDEScheduler" and not scheduler.state_in_first_order:
        return between(scheduler, place - 1, levels)
    if type(scheduler).__name__ == "KDPM2DiscreteScheduler" and not scheduler.state_in_first_order:
        return levels.at(scheduler.sigmas_interpol, place)  # its second-order evaluations are made between two sigmas
    return levels.at(scheduler.sigmas, place)
