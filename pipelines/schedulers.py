"""Short names of schedulers, for `--scheduler` and `load_pipeline(..., scheduler=...)`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import UserError, one_line, unknown

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass(frozen=True)
class SchedulerName:
    """A diffusers class, what its configuration is set to, and the models it can sample.

    diffusion: models that predict noise, v or the sample. flow: flow-matching models, which predict a velocity.
    """

    class_name: str
    overrides: dict[str, Any] = field(default_factory=dict)
    diffusion: bool = True
    flow: bool = False


# Spacings of sigmas are set both ways, so that a name always means the same, whatever the model's own scheduler says.
_PLAIN = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_KARRAS = _PLAIN | {"use_karras_sigmas": True}
_ODE, _SDE = {"algorithm_type": "dpmsolver++"}, {"algorithm_type": "sde-dpmsolver++"}

SCHEDULERS: dict[str, SchedulerName] = {
    "ddim": SchedulerName("DDIMScheduler"),
    "ddpm": SchedulerName("DDPMScheduler"),
    # Without the Runge-Kutta start, as in Stable Diffusion: no latent model is published for use with it.
    "pndm": SchedulerName("PNDMScheduler", {"skip_prk_steps": True}),
    "lms": SchedulerName("LMSDiscreteScheduler", _PLAIN),
    "lms-karras": SchedulerName("LMSDiscreteScheduler", _KARRAS),
    "euler": SchedulerName("EulerDiscreteScheduler", _PLAIN),
    "euler-karras": SchedulerName("EulerDiscreteScheduler", _KARRAS),
    "euler-a": SchedulerName("EulerAncestralDiscreteScheduler"),
    "heun": SchedulerName("HeunDiscreteScheduler", _PLAIN),
    "heun-karras": SchedulerName("HeunDiscreteScheduler", _KARRAS),
    "dpm++": SchedulerName("DPMSolverMultistepScheduler", _PLAIN | _ODE, flow=True),
    "dpm++-karras": SchedulerName("DPMSolverMultistepScheduler", _KARRAS | _ODE),
    "dpm++-sde": SchedulerName("DPMSolverMultistepScheduler", _PLAIN | _SDE, flow=True),
    "dpm++-sde-karras": SchedulerName("DPMSolverMultistepScheduler", _KARRAS | _SDE),
    "dpm++-single": SchedulerName("DPMSolverSinglestepScheduler", _PLAIN | _ODE, flow=True),
    # diffusers accepts flows for DEIS too, but misses the image of a straight flow by far.
    "deis": SchedulerName("DEISMultistepScheduler", _PLAIN),
    "unipc": SchedulerName("UniPCMultistepScheduler", _PLAIN, flow=True),
    "unipc-karras": SchedulerName("UniPCMultistepScheduler", _KARRAS),
    "lcm": SchedulerName("LCMScheduler"),
    "flow-euler": SchedulerName("FlowMatchEulerDiscreteScheduler", _PLAIN, diffusion=False, flow=True),
    "flow-heun": SchedulerName("FlowMatchHeunDiscreteScheduler", diffusion=False, flow=True),
    "flow-lcm": SchedulerName("FlowMatchLCMScheduler", _PLAIN, diffusion=False, flow=True),
}


def check_scheduler(name: str) -> str:
    """`name`, if it is in the table; UserError with the nearest one if not. Imports nothing."""
    if name not in SCHEDULERS:
        raise unknown("scheduler", name, SCHEDULERS)
    return name


def is_flow(scheduler: SchedulerMixin) -> bool:
    """Whether the model that `scheduler` belongs to predicts the velocity of a flow."""
    config = scheduler.config
    return (
        "FlowMatch" in type(scheduler).__name__
        or config.get("prediction_type") == "flow_prediction"
        or bool(config.get("use_flow_sigmas"))
    )


def compatible(current: SchedulerMixin) -> list[str]:
    """The names that can take the place of `current`; [] if it is of a kind that cannot be exchanged."""
    from diffusers.schedulers import KarrasDiffusionSchedulers

    flow = is_flow(current)
    known = {row.class_name for row in SCHEDULERS.values()} | set(KarrasDiffusionSchedulers.__members__)
    if not flow and (type(current).__name__ not in known or not hasattr(current, "alphas_cumprod")):
        return []
    return [name for name, row in SCHEDULERS.items() if (row.flow if flow else row.diffusion)]


def make_scheduler(name: str, current: SchedulerMixin) -> SchedulerMixin:
    """A new scheduler called `name` with the noise schedule and prediction type of `current`, which stays as it is.

    UserError: an unknown name; a flow scheduler for a model that predicts noise or v, or the reverse; a scheduler that
    needs a package which is not installed.
    """
    import diffusers

    row, names, flow = SCHEDULERS[check_scheduler(name)], compatible(current), is_flow(current)
    if name not in names:
        kind = "a flow-matching model" if flow else "a model that does not predict a flow"
        work = f"what works: {', '.join(names)}" if names else f"{type(current).__name__} cannot be exchanged"
        raise UserError(f"scheduler {name!r} cannot sample {kind}: {work}")
    cls = getattr(diffusers, row.class_name)
    # Defaults of the current class are no property of the model: the new class has its own.
    used_defaults = set(current.config.get("_use_default_values", ()))
    config = {key: value for key, value in current.config.items() if key not in used_defaults}
    config["_class_name"] = type(current).__name__  # from_config needs it to know whose keys it may drop
    try:
        accepted = inspect.signature(cls.__init__).parameters
        if "clip_sample" in accepted:
            # The class defaults to True, for pixels in [-1, 1]; latents are not bounded.
            config.setdefault("clip_sample", False)
        changes = {**row.overrides, **(_flow_settings(accepted, current) if flow else {})}
        return cls.from_config(config, **{key: value for key, value in changes.items() if key in accepted})
    except ImportError as error:
        raise UserError(f"scheduler {name!r}: {one_line(error)}") from error


def _flow_settings(accepted: Any, current: SchedulerMixin) -> dict[str, Any]:
    """The shift of `current` under the name the new class has for it, and what makes a diffusion solver a flow's."""
    shift = current.config.get("shift", current.config.get("flow_shift", 1.0))
    if "shift" in accepted:
        return {"shift": shift}
    return {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
