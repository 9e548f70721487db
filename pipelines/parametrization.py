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

from .kernels import Pair, kernel, share_of_angle


def prediction_type(scheduler: Any) -> str:
    """What a model under this scheduler predicts: "epsilon", "v_prediction", "sample", "flow", or "unknown"."""
    config = scheduler.config
    if "FlowMatch" in type(scheduler).__name__ or config.get("use_flow_sigmas"):
        return "flow"
    kind = config.get("prediction_type", "unknown")
    # What Sana-Sprint's TrigFlow scheduler gets is worked out by the pipeline; its model predicts a velocity.
    return "flow" if kind in ("flow_prediction", "trigflow") else kind


def describe_step(scheduler: Any, timestep: Any, index: int, total: int, state: dict[str, Any]) -> Step:
    """The Step of the evaluation that is about to be made.

    timestep: as in `scheduler.timesteps`, a number or a tensor of no dimension. Nothing is read back from the device,
    save by a scheduler that has not looked its own index up yet (once a call; it would do so at its first step). What
    the scheduler keeps on the CPU becomes a number: no rule pays for a tensor of no dimension.
    """
    place = _place(scheduler, timestep)
    step = _described(scheduler, timestep, index, total, state, place)
    following = kernel(scheduler, timestep, step.prediction, place)
    levels = {"timestep": _number(step.timestep), "sigma": _number(step.sigma)}
    pairs = {"denoised": _numbers(step.denoised), "noise": _numbers(step.noise), "kernel": _numbers(following)}
    return replace(step, scheduler=type(scheduler).__name__, **levels, **pairs)


def _described(scheduler: Any, timestep: Any, index: int, total: int, state: dict[str, Any], place: int | None) -> Step:
    prediction = prediction_type(scheduler)
    sigma = _sigma(scheduler, timestep, place)
    denoised: Pair | None
    noise: Pair | None
    if prediction == "flow":
        if sigma is None:
            return Step(index, total, timestep, None, prediction, state=state)
        if scheduler.config.get("invert_sigmas"):  # sigma is the share of signal, and time runs the other way
            return Step(index, total, timestep, 1 - sigma, prediction, (1.0, 1 - sigma), (1.0, -sigma), state)
        return Step(index, total, timestep, sigma, prediction, (1.0, -sigma), (1.0, 1 - sigma), state)
    if hasattr(scheduler, "precondition_inputs") and sigma is not None:
        return Step(index, total, timestep, sigma, prediction, *_edm(scheduler, sigma), state)
    if type(scheduler).__name__ == "DDPMWuerstchenScheduler":  # alpha_cumprod of a timestep in [0, 1]; predicts noise
        signal, prediction = scheduler._alpha_cumprod(timestep, timestep.device), "epsilon"
        alpha, s = signal.sqrt(), (1 - signal).sqrt()
        sigma = s / alpha
    elif prediction == "unknown":
        return Step(index, total, timestep, sigma, prediction, state=state)
    elif sigma is None:
        cumulative = scheduler.alphas_cumprod
        if isinstance(timestep, Tensor):
            cumulative, timestep = cumulative.to(timestep.device), timestep.long()
        signal = cumulative[timestep]
        alpha, s = signal.sqrt(), (1 - signal).sqrt()
        sigma = s / alpha
    else:
        alpha = (sigma.square() + 1).rsqrt()
        s = sigma * alpha
    maps: dict[str, tuple[Pair | None, Pair]] = {
        "epsilon": ((1 / alpha, -s / alpha), (0.0, 1.0)),
        "v_prediction": ((alpha, -s), (s, alpha)),
        "sample": ((0.0, 1.0), (1 / s, -alpha / s)),
    }
    denoised, noise = maps.get(prediction, (None, None))
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


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Tensor) and value.device.type == "cpu" and not value.ndim else value


def _numbers(pair: Any) -> Any:
    return pair and (_number(pair[0]), _number(pair[1]))


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


def _sigma(scheduler: Any, timestep: Any, place: int | None) -> Tensor | None:
    """The scheduler's sigma at this evaluation, or None where it keeps none."""
    if type(scheduler).__name__ == "SCMScheduler":
        return share_of_angle(timestep)
    if place is None:
        return None
    if type(scheduler).__name__ == "KDPM2DiscreteScheduler" and not scheduler.state_in_first_order:
        return scheduler.sigmas_interpol[place]  # its second-order evaluations are made between two sigmas
    return scheduler.sigmas[place]
