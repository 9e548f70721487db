"""Where in its sampling each evaluation of a pipeline's call stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .errors import warn_user
from .frames import variables_of
from .layouts import Layout


@dataclass
class Places:
    """Counts the evaluations of one call, and warns, once, of what makes a rule count wrongly or is not used.

    index: of the next evaluation in the sampling under way; total: of how many; schedule: the scheduler's timesteps.
    beginning: schedule and timestep of the first evaluation of the sampling before. scale: the pipeline's own at first.
    """

    pipe: Any
    layout: Layout
    arguments: dict[str, Any]
    index: int = 0
    total: int = 1
    schedule: Any = None
    beginning: tuple[Any, Any] | None = None
    scale: float | None = None
    said: set[str] = field(default_factory=set)

    def next(self, kwargs: dict[str, Any], args: tuple[Any, ...]) -> tuple[Any, int, int]:
        """Timestep, index and total of an evaluation, by the arguments of the denoiser. At index 0 a sampling begins.

        The timestep is the scheduler's: some hand the model a scaled one.
        """
        self._begin_anew(getattr(self.scheduler, "timesteps", None))
        timestep = self._timestep(kwargs, args)
        if self.index == 0:
            self.total = self._total(timestep)
            self._check_beginning(timestep)
        self._check_scale()
        self.index += 1
        return timestep, self.index - 1, self.total

    @property
    def scheduler(self) -> Any:
        """The pipeline's, of the denoiser that is guided."""
        return getattr(self.pipe, self.layout.scheduler)

    def _begin_anew(self, schedule: Any) -> None:
        """What a rule remembers lasts for one sampling, of which some calls make several: sections, FreeInit.

        A new one begins where the scheduler has new timesteps, or where the old ones are used up: all of them, since a
        pipeline may say too few (AceStep does, given timesteps of one's own).
        """
        used_up = self.index >= max(self.total, 0 if schedule is None else len(schedule))
        if schedule is not self.schedule or used_up:
            self.index = 0
        self.schedule = schedule

    def _timestep(self, kwargs: dict[str, Any], args: tuple[Any, ...]) -> Any:
        scheduler = self.scheduler
        timestep = getattr(self.pipe, "_current_timestep", None)
        if scheduler.config.get("invert_sigmas"):
            timestep = None  # Mochi states it the other way round than its scheduler
        if timestep is None and self.layout.scaled_timestep:
            timestep = scheduler.timesteps[(getattr(scheduler, "begin_index", None) or 0) + self.index]
        elif timestep is None:
            timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        return timestep.flatten()[0] if isinstance(timestep, Tensor) and timestep.ndim else timestep

    def _total(self, timestep: Any) -> int:
        """How many evaluations a sampling makes that begins at `timestep`: image-to-image ones leave the first out."""
        total: int | None = getattr(self.pipe, "_num_timesteps", None)
        if total and self.arguments.get("denoising_end"):  # some note it before they leave out what comes after
            return len(variables_of(self.pipe).get("timesteps", range(total)))
        if total:
            return total
        left_out: int | None = getattr(self.scheduler, "begin_index", None)
        if left_out is None:  # the timestep is read from its device, once a sampling
            timesteps, first = self.schedule.tolist(), float(timestep)
            left_out = timesteps.index(first) if first in timesteps else 0
        return len(self.schedule) - left_out

    def _check_beginning(self, timestep: Any) -> None:
        """A sampling that begins where the one before did not has evaluations that no step goes with."""
        schedule, first = self.beginning or (self.schedule, timestep)
        if schedule is self.schedule and float(first) != float(timestep):
            self._say_once(
                f"{type(self.pipe).__name__} evaluates its denoiser more often than its scheduler has steps: the rule "
                "acts on every evaluation, and counts steps wrongly"
            )
        self.beginning = self.schedule, timestep

    def _check_scale(self) -> None:
        """A callback of the user's own, or the pipeline, may change the scale from step to step; 0 ends guidance."""
        scale = getattr(self.pipe, "_guidance_scale", None)
        if not isinstance(scale, (int, float)):  # tensors would have to be waited for
            return
        self.scale = scale if self.scale is None else self.scale
        if scale != self.scale and getattr(self.pipe, "do_classifier_free_guidance", True):
            self._say_once(
                f"the guidance scale of {type(self.pipe).__name__} is changed on the way: the rule's counts, which "
                "Scheduled(rule, ...) changes from step to step"
            )

    def _say_once(self, message: str) -> None:
        if message not in self.said:
            self.said.add(message)
            warn_user(message)
