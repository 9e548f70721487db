"""Pictures for a request: one random generator per picture, so that none depends on which others are made with it."""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .calibrated import rule_on
from .embedded import EMBEDDED
from .errors import UserError, one_line
from .metadata import Settings, versions
from .quiet import truncating
from .request import Request
from .rule_names import NATIVE
from .rules import modifier_values, option_values, place_rewards, rule_name
from .spelling import has_own_scale
from .switching import call_parameters
from .table import layout_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

    from diffguide.guidance import Guidance, Trace


REMEDIES = "a smaller --height, --width or --batch-size, --dtype float16 or --cpu-offload"


@dataclass(frozen=True)
class Picture:
    """A picture, how it was made, its share of the seconds of its batch, and the batch's trace with its place in it.

    trace: None for the pipeline's own guidance.
    """

    image: Image
    settings: Settings
    seconds: float
    trace: Trace | None = None
    place: int = 0


def make_rule(request: Request, pipe: DiffusionPipeline) -> Guidance | None:
    """The rule of a request; None for the pipeline's own guidance.

    Its scale is the one asked for, else the default of the pipeline if that means guidance, else the default of the
    rule. UserError for options that the rule does not take, or a pipeline that no rule can act in.
    """
    if request.guidance in NATIVE:
        return None
    scale = request.guidance_scale
    if scale is None and not has_own_scale(request.guidance):
        layout = layout_of(pipe)
        own = _default(pipe, layout.scale)
        scale = own + layout.offset if isinstance(own, (int, float)) and own > layout.off else None
    return rule_on(request.model, request.guidance, scale, request.steps, request.scheduler)


def sample(
    pipe: DiffusionPipeline, rule: Guidance | None, request: Request, further: Mapping[str, Any] = MappingProxyType({})
) -> Generator[Picture, None, None]:
    """The pictures of `request.jobs`, in order, `request.batch_size` at a time, each as soon as it is there.

    further: arguments that go into each call, over those of the request.
    UserError: an argument that the pipeline does not take, not enough memory, a pipeline that makes no pictures.
    """
    import torch

    from .handle import guide

    common, jobs = call_arguments(pipe, rule, request), request.jobs
    made_with, native_scale = versions(), common.get("guidance_scale", _default(pipe, "guidance_scale"))
    if isinstance(native_scale, (int, float)):
        native_scale += _offset(pipe)
    scale = native_scale if rule is None or not _has_scale(pipe, rule) else rule.guidance_scale
    place_rewards(rule, pipe._execution_device)
    handle = None if rule is None else guide(pipe, rule)
    try:
        for start in range(0, len(jobs), request.batch_size):
            batch = jobs[start : start + request.batch_size]
            arguments = dict(common, prompt=[prompt for prompt, _ in batch])
            if request.negative_prompt is not None:
                arguments["negative_prompt"] = [request.negative_prompt] * len(batch)
            arguments["generator"] = [torch.Generator("cpu").manual_seed(seed) for _, seed in batch]
            began = time.perf_counter()
            images = call_pipeline(pipe, arguments | dict(further))
            seconds = (time.perf_counter() - began) / len(batch)
            for k, (image, (prompt, seed)) in enumerate(zip(images, batch)):
                evaluations = None if handle is None else handle.trace.evaluations
                settings = Settings(
                    prompt=prompt,
                    model=request.model,
                    seed=seed,
                    height=image.height,
                    width=image.width,
                    negative_prompt=request.negative_prompt,
                    rule=rule_name(rule),
                    options=option_values(rule),
                    modifiers=modifier_values(rule),
                    guidance_scale=scale,
                    steps=common.get("num_inference_steps", _default(pipe, "num_inference_steps")),
                    scheduler=request.scheduler,
                    scheduler_class=scheduler_class(pipe),
                    dtype=str(pipe.dtype).removeprefix("torch."),
                    device=str(pipe._execution_device.type),
                    evaluations=evaluations,
                    versions=made_with,
                )
                yield Picture(image, settings, seconds, None if handle is None else handle.trace, k)
    finally:
        if handle is not None:
            handle.remove()


def call_arguments(pipe: DiffusionPipeline, rule: Guidance | None, request: Request) -> dict[str, Any]:
    """What every call has in common. UserError for what the pipeline has no argument for."""
    wanted = {
        "num_inference_steps": request.steps,
        "height": request.height,
        "width": request.width,
        "guidance_scale": _own_scale(pipe, rule, request),
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    if "guidance_scale" in given:
        scale, offset = float(given["guidance_scale"]), _offset(pipe)
        given["guidance_scale"] = scale - offset
        if offset and scale - offset <= layout_of(pipe).off < scale:
            raise UserError(
                f"{type(pipe).__name__} has no guidance of its own at a scale of {scale:g}: use a rule, or a scale "
                f"above {layout_of(pipe).off + offset:g}"
            )
    accepted = call_parameters(type(pipe))[1]
    negative = request.negative_prompt is not None and not (rule is not None and rule.acts_inside)
    asked = [*given, "prompt", *(["negative_prompt"] if negative else [])]
    for name in asked:
        if name not in accepted:
            raise UserError(f"{type(pipe).__name__} takes no {name.replace('_', ' ')}")
    return given


def call_pipeline(pipe: Any, arguments: dict[str, Any], remedies: str = REMEDIES) -> Any:
    """The images of one call of a pipeline, with the rule that is attached to it. UserError as `sample`.

    remedies: what to try where memory is not enough.
    """
    try:
        with truncating():
            output = pipe(**arguments)
    except ValueError as error:
        raise UserError(one_line(error)) from error
    except (TypeError, AssertionError) as error:
        where = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
        if not where & {"set_timesteps", "retrieve_timesteps", "check_inputs"}:
            raise
        names = " with ".join(filter(None, [type(pipe).__name__, scheduler_class(pipe)]))
        raise UserError(f"{names} cannot be called so: {one_line(error)}") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
            raise UserError(f"out of memory: try {remedies}") from error
        raise
    if not hasattr(output, "images"):
        raise UserError(f"{type(pipe).__name__} makes no pictures")
    return output.images


def scheduler_class(pipe: Any) -> str:
    """The name of the scheduler's class; "" where each part of the pipeline has its own."""
    return type(pipe.scheduler).__name__ if hasattr(pipe, "scheduler") else ""


def _has_scale(pipe: DiffusionPipeline, rule: Guidance) -> bool:
    """Whether a scale that is asked for is the rule's, not an input of the pipeline's model."""
    return rule.acts_inside or layout_of(pipe).calls != "single"


def _own_scale(pipe: DiffusionPipeline, rule: Guidance | None, request: Request) -> float | None:
    """The scale that the pipeline is called with; None: its default, or that which the rule's makes of it."""
    if rule is None or not _has_scale(pipe, rule):
        return request.guidance_scale
    embedded = layout_of(pipe).calls == "single" and request.model in EMBEDDED
    return EMBEDDED[request.model].guidance_scale if embedded else None


def _offset(pipe: DiffusionPipeline) -> float:
    """What has to be added to the pipeline's own `guidance_scale` for that of this project, which is w of diffusers.

    0 for a class that is not in the table, as its first call has yet to show.
    """
    try:
        layout = layout_of(pipe)
    except UserError:  # no rule can act in it: nothing is known of its scale
        return 0.0
    return layout.offset if layout.scale == "guidance_scale" else 0.0


def _default(pipe: DiffusionPipeline, name: str) -> Any:
    """The default of an argument of the pipeline; None if it has none."""
    parameter = call_parameters(type(pipe))[1].get(name)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default
