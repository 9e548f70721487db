"""The schedulers that the engine is tested with, each by the name of its test."""

from collections.abc import Callable
from typing import Any

import pytest
from diffusers import (
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from tiny import BETAS, ddim


def of(cls: type, **options: Any) -> Callable[[str], Any]:
    return lambda prediction: cls(**BETAS, prediction_type=prediction, **options)


def lms(prediction: str) -> LMSDiscreteScheduler:
    pytest.importorskip("scipy")
    return LMSDiscreteScheduler(**BETAS, prediction_type=prediction)


def dpm_sde(prediction: str) -> DPMSolverSDEScheduler:
    pytest.importorskip("torchsde")
    return DPMSolverSDEScheduler(**BETAS, prediction_type=prediction, noise_sampler_seed=3)


DIFFUSION: dict[str, Callable[[str], Any]] = {
    "ddim": ddim,
    "ddpm": of(DDPMScheduler, clip_sample=False, steps_offset=1),
    "dpm++": of(DPMSolverMultistepScheduler),
    "dpm++-karras": of(DPMSolverMultistepScheduler, use_karras_sigmas=True),
    "dpm++-sde": of(DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"),
    "dpm++-single": of(DPMSolverSinglestepScheduler),
    "unipc": of(UniPCMultistepScheduler),
    "unipc-karras": of(UniPCMultistepScheduler, use_karras_sigmas=True),
    "euler": of(EulerDiscreteScheduler),
    "euler-karras": of(EulerDiscreteScheduler, use_karras_sigmas=True),
    "euler-a": of(EulerAncestralDiscreteScheduler),
    "heun": of(HeunDiscreteScheduler),
    "heun-karras": of(HeunDiscreteScheduler, use_karras_sigmas=True),
    "pndm": of(PNDMScheduler, skip_prk_steps=True, steps_offset=1),
    "lms": lms,
    "kdpm2": of(KDPM2DiscreteScheduler),
    "kdpm2-a": of(KDPM2AncestralDiscreteScheduler),
    "deis": of(DEISMultistepScheduler),
    "dpm-sde": dpm_sde,
}

FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
FLOW: dict[str, Callable[[], Any]] = {
    "flow-euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow-heun": lambda: FlowMatchHeunDiscreteScheduler(shift=3.0),
    "dpm++": lambda: DPMSolverMultistepScheduler(**FLOW_SIGMAS),
    "dpm++-sde": lambda: DPMSolverMultistepScheduler(**FLOW_SIGMAS, algorithm_type="sde-dpmsolver++"),
    "unipc": lambda: UniPCMultistepScheduler(**FLOW_SIGMAS),
}
