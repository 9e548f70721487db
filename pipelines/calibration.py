"""Fitting what adaptive guidance needs to a model: on some prompts, and judged on others.

Each prompt is sampled once under plain guidance. What both fits need of that, cosines per step and inner products of
the predictions, is a few kilobytes, so that an interrupted calibration goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffguide.guidance import (
    AdaptiveGuidance,
    ClassifierFreeGuidance,
    Coefficients,
    Guidance,
    LinearAdaptiveGuidance,
    Measurement,
    Step,
    Trajectories,
)
from diffguide.guidance.ag import cosine_in
from diffguide.guidance.basis import Scalar
from diffguide.guidance.tensors import precise

from .errors import UserError
from .handle import guide
from .sampling import call_pipeline

SPACES = ("noise", "denoised")
REMEDIES = "a smaller --batch-size or --dtype float16"


class Recorder(ClassifierFreeGuidance):
    """Plain guidance that keeps, of the last call, both predictions of every step and their cosines."""

    def __init__(self, guidance_scale: float):
        super().__init__(guidance_scale)
        self.cond: list[Tensor] = []
        self.uncond: list[Tensor] = []
        self.cosines: dict[str, list[Tensor]] = {}
        self.levels: list[Scalar | None] = []
        self.step = Step()

    def needs_uncond(self, step: Step) -> bool:
        """Always."""
        return True

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
        """As plain guidance."""
        if step.index == 0:
            self.cond, self.uncond, self.levels, self.cosines = [], [], [], {space: [] for space in SPACES}
        c, u = precise(cond), precise(uncond)
        self.step = step
        self.cond.append(c)
        self.uncond.append(u)
        self.levels.append(step.sigma)
        for space in SPACES:
            self.cosines[space].append(cosine_in(space, c, u, latents, step).flatten())
        return super().guide(cond, uncond, latents, step)


@dataclass
class Setting:
    """What is calibrated: a pipeline at a scale and a number of steps. Prompt k is sampled with seed `seed` + k."""

    pipe: Any
    guidance_scale: float
    steps: int
    prompts: list[str]
    seed: int = 0
    batch_size: int = 8
    arguments: dict[str, Any] = field(default_factory=dict)

    def batches(self, prompts: range) -> list[range]:
        """`prompts` in pieces of the batch size."""
        return [prompts[start : start + self.batch_size] for start in range(0, len(prompts), self.batch_size)]

    def images(self, rule: Guidance, batch: range) -> tuple[Tensor, float]:
        """(B, 3, H, W) in [0, 1] for the prompts of `batch` under `rule`, and the evaluations of an image alone.

        UserError as `call_pipeline`.
        """
        arguments = {
            "prompt": [self.prompts[k] for k in batch],
            "generator": [torch.Generator("cpu").manual_seed(self.seed + k) for k in batch],
            "num_inference_steps": self.steps,
            "output_type": "pt",
        }
        with guide(self.pipe, rule) as guided:
            images = call_pipeline(self.pipe, arguments | self.arguments, REMEDIES)
            made = [2 if done == "guided" else 1 for record in guided.trace for done in record.decision]
            return images.float().cpu(), sum(made) / len(batch)


@dataclass
class Recorded:
    """What was recorded of the prompts so far: (n, steps) cosines by space, and the trajectories' inner products."""

    trajectories: Trajectories
    cosines: dict[str, Tensor]
    step: Step

    @property
    def count(self) -> int:
        """The number of prompts."""
        return self.trajectories.samples


def record(setting: Setting, batch: range, before: Recorded | None = None) -> Recorded:
    """Sample the prompts of `batch` under plain guidance and add what they say to `before`.

    UserError: the pipeline made another number of evaluations than steps, as second-order schedulers do.
    """
    recorder = Recorder(setting.guidance_scale)
    setting.images(recorder, batch)
    if len(recorder.cond) != setting.steps:
        raise UserError(
            f"{type(setting.pipe.scheduler).__name__} made {len(recorder.cond)} evaluations in {setting.steps} steps: "
            "calibrate with a scheduler that makes one a step"
        )
    known = [level for level in recorder.levels if level is not None]
    levels = tuple(map(float, known)) if len(known) == setting.steps else ()
    trajectories = before.trajectories if before else Trajectories(setting.steps, levels)
    trajectories.add(recorder.cond, recorder.uncond)
    cosines = {space: torch.stack(values, 1).cpu() for space, values in recorder.cosines.items()}
    if before:
        cosines = {space: torch.cat([before.cosines[space], values]) for space, values in cosines.items()}
    return Recorded(trajectories, cosines, recorder.step)


def rising_space(recorded: Recorded) -> str:
    """The first space whose mean cosine rises over sampling, as a threshold needs it: at least 4 of 5 steps up."""
    for space, cosines in recorded.cosines.items():
        mean = cosines.mean(0)
        if (mean.diff() > 0).float().mean() >= 0.8:
            return space
    raise UserError("the cosine of both predictions does not rise from step to step: no threshold can be found")


def evaluations(cosines: Tensor, threshold: float) -> Tensor:
    """(n,): evaluations per image that adaptive guidance makes where the cosines (n, steps) are those of guidance."""
    steps = cosines.shape[1]
    beyond = (cosines >= threshold).float().cumsum(1) > 0
    guided = (~beyond).sum(1) + 1
    return steps + guided.clamp(max=steps)


def threshold_for_saving(cosines: Tensor, saving: float) -> float:
    """The largest threshold that saves at least this share of all evaluations, on average; UserError if none does."""
    steps = cosines.shape[1]
    check_saving(saving, steps)
    thresholds = cosines.flatten().sort(descending=True).values.tolist()
    saved = (1 - float(evaluations(cosines, threshold).float().mean()) / (2 * steps) for threshold in thresholds)
    return next((threshold for threshold, share in zip(thresholds, saved) if share >= saving), thresholds[-1])


def check_saving(saving: float, steps: int) -> None:
    """UserError: a share of all evaluations that no threshold saves, as the first step makes both."""
    most = (steps - 1) / (2 * steps)
    if saving > most:
        raise UserError(f"a saving of {saving:g} is not possible: at {steps} steps it is at most {most:.3f}")


def linear_rule(recorded: Recorded, guidance_scale: float) -> LinearAdaptiveGuidance:
    """Linear adaptive guidance fitted to what was recorded."""
    coefficients = Coefficients.fit(recorded.trajectories, guidance_scale, recorded.step)
    return LinearAdaptiveGuidance(guidance_scale, coefficients)


def adaptive_rule(recorded: Recorded, guidance_scale: float, space: str, saving: float) -> AdaptiveGuidance:
    """Adaptive guidance with the threshold for a saving, rounded down to six decimals."""
    threshold = threshold_for_saving(recorded.cosines[space], saving)
    return AdaptiveGuidance(guidance_scale, int(threshold * 1e6) / 1e6, space)  # type: ignore[arg-type]


@dataclass
class Judgement:
    """How close a rule is to plain guidance on prompts that it was not fitted to.

    similarity: mean SSIM of its images to those of plain guidance. evaluations: per image; full: of plain guidance.
    """

    similarity: float
    evaluations: float
    full: float
    samples: int

    @property
    def saving(self) -> float:
        """The share of evaluations that is saved."""
        return 1 - self.evaluations / self.full


def judge(setting: Setting, rule: Guidance, prompts: range, full: dict[range, tuple[Tensor, float]]) -> Judgement:
    """Compare `rule` with plain guidance on `prompts`. `full` keeps plain guidance's images between calls."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    similarity = made = plain = 0.0
    for batch in setting.batches(prompts):
        if batch not in full:
            full[batch] = setting.images(ClassifierFreeGuidance(setting.guidance_scale), batch)
        expected, per_image = full[batch]
        images, ours = setting.images(rule, batch)
        similarity += float(ssim(images, expected, data_range=1.0)) * len(batch)
        made += ours * len(batch)
        plain += per_image * len(batch)
    count = len(prompts)
    return Judgement(similarity / count, made / count, plain / count, count)
