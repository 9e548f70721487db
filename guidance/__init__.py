"""The rules of guidance: tensors in, tensors out. They know no pipeline, no file and no command line."""

from .ag import AdaptiveGuidance
from .apg import AdaptiveProjectedGuidance
from .base import Guidance
from .basis import Basis, Combination
from .cfg import ClassifierFreeGuidance
from .corrections import NormMatching
from .raag import RatioAwareAdaptiveGuidance
from .step import Step
from .trace import Trace, TraceRecord

__all__ = [
    "AdaptiveGuidance",
    "AdaptiveProjectedGuidance",
    "Basis",
    "ClassifierFreeGuidance",
    "Combination",
    "Guidance",
    "NormMatching",
    "RatioAwareAdaptiveGuidance",
    "Step",
    "Trace",
    "TraceRecord",
]
