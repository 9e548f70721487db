"""The rules of guidance: tensors in, tensors out. They know no pipeline, no file and no command line."""

from .ag import AdaptiveGuidance
from .apg import AdaptiveProjectedGuidance
from .base import Guidance, Vectors
from .basis import Basis, Combination
from .beta_cfg import BetaClassifierFreeGuidance
from .cfg import ClassifierFreeGuidance
from .cfg_zero import ClassifierFreeZeroStarGuidance
from .coefficients import Coefficients, Trajectories
from .corrections import EnergyPreserving, NormMatching, Renorm
from .fdg import FrequencyDecoupledGuidance
from .linear_ag import LinearAdaptiveGuidance
from .modifiers import Correction, Interval, Modifier, Rescale
from .raag import RatioAwareAdaptiveGuidance
from .schedules import Scheduled
from .step import Step
from .tcfg import TangentialClassifierFreeGuidance
from .thresholding import DynamicThresholding, ReflectingWall
from .trace import Measurement, Trace, TraceRecord

__all__ = [
    "AdaptiveGuidance",
    "AdaptiveProjectedGuidance",
    "Basis",
    "BetaClassifierFreeGuidance",
    "ClassifierFreeGuidance",
    "ClassifierFreeZeroStarGuidance",
    "Coefficients",
    "Combination",
    "Correction",
    "DynamicThresholding",
    "EnergyPreserving",
    "FrequencyDecoupledGuidance",
    "Guidance",
    "Interval",
    "LinearAdaptiveGuidance",
    "Measurement",
    "Modifier",
    "NormMatching",
    "RatioAwareAdaptiveGuidance",
    "ReflectingWall",
    "Renorm",
    "Rescale",
    "Scheduled",
    "Step",
    "TangentialClassifierFreeGuidance",
    "Trace",
    "TraceRecord",
    "Trajectories",
    "Vectors",
]
