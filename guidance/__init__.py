"""The rules of guidance: tensors in, tensors out. They know no pipeline and no command line."""

from .ag import AdaptiveGuidance
from .apg import AdaptiveProjectedGuidance
from .base import Guidance, Vectors
from .basis import Basis, Combination
from .beta_cfg import BetaClassifierFreeGuidance
from .cfg import ClassifierFreeGuidance
from .cfg_pp import ClassifierFreeGuidancePlusPlus
from .cfg_zero import ClassifierFreeZeroStarGuidance
from .clip_reward import ClipReward
from .coefficients import Coefficients, Trajectories
from .corrections import EnergyPreserving, NormMatching, Renorm
from .divergence import DIVERGENCES, Divergence
from .fdg import FrequencyDecoupledGuidance
from .interval import Interval
from .linear_ag import LinearAdaptiveGuidance
from .measurement import Measurement
from .modifiers import Correction, Modifier, Rescale
from .nag import NormalizedAttentionGuidance
from .raag import RatioAwareAdaptiveGuidance
from .records import TraceRecord
from .reward import Reward, as_reward
from .reward_ensemble import RewardEnsemble
from .reward_guidance import RewardGuidance
from .schedules import Scheduled
from .step import Step
from .tcfg import TangentialClassifierFreeGuidance
from .thresholding import DynamicThresholding, ReflectingWall
from .trace import Trace
from .zeroth_order import ZerothOrderRankSearch

__all__ = [
    "DIVERGENCES",
    "AdaptiveGuidance",
    "AdaptiveProjectedGuidance",
    "Basis",
    "BetaClassifierFreeGuidance",
    "ClassifierFreeGuidance",
    "ClassifierFreeGuidancePlusPlus",
    "ClassifierFreeZeroStarGuidance",
    "ClipReward",
    "Coefficients",
    "Combination",
    "Correction",
    "Divergence",
    "DynamicThresholding",
    "EnergyPreserving",
    "FrequencyDecoupledGuidance",
    "Guidance",
    "Interval",
    "LinearAdaptiveGuidance",
    "Measurement",
    "Modifier",
    "NormMatching",
    "NormalizedAttentionGuidance",
    "RatioAwareAdaptiveGuidance",
    "ReflectingWall",
    "Renorm",
    "Rescale",
    "Reward",
    "RewardEnsemble",
    "RewardGuidance",
    "Scheduled",
    "Step",
    "TangentialClassifierFreeGuidance",
    "Trace",
    "TraceRecord",
    "Trajectories",
    "Vectors",
    "ZerothOrderRankSearch",
    "as_reward",
]
