"""Samples batches of a plan, and measures their images as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from diffguide.guidance import Guidance
from diffguide.pipelines.calibrated import rule_on
from diffguide.pipelines.files import whole
from diffguide.pipelines.metadata import encoded_png
from diffguide.pipelines.request import Request
from diffguide.pipelines.sampling import Picture, sample
from diffguide.pipelines.schedulers import make_scheduler
from diffguide.pipelines.table import layout_of

from .counting import counted
from .decode import pixels_of
from .files import FULL, Arrays
from .plan import Cell, Plan
from .store import Store, Unit

if TYPE_CHECKING:
    from PIL.Image import Image

Measure = Callable[[Tensor, Sequence[str]], Tensor]
"""Images (N, 3, H, W) in [0, 1] and their prompts -> (N,) or (N, D)."""

TRACED = ("cosine", "ratio", "update_norm", "effective_scale")


@dataclass(frozen=True)
class PairedRequest(Request):
    """A request whose prompts and seeds are pairs."""

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """Prompt and seed of each image."""
        return list(zip(self.prompts, self.seeds))


def request_of(plan: Plan, cell: Cell, images: Sequence[int]) -> PairedRequest:
    """The images of a cell with these numbers."""
    return PairedRequest(
        prompts=[plan.prompt(image) for image in images],
        seeds=[plan.seed(image) for image in images],
        model=plan.model,
        guidance=cell.guidance,
        guidance_scale=cell.guidance_scale,
        steps=cell.steps,
        negative_prompt=plan.negative_prompt,
        scheduler=cell.scheduler,
        height=plan.height,
        width=plan.width,
        dtype=plan.dtype,
        device=plan.device,
        cpu_offload=False,
        batch_size=plan.batch_size,
    )


def sample_units(
    pipe: Any, store: Store, units: Sequence[Unit], measures: Mapping[str, Measure], process: int = 0
) -> Iterator[int]:
    """Sample, measure and write batches in order; after each, the number of its images.

    Args:
        pipe: a loaded pipeline, whose scheduler is its own again afterwards.
        store: where the batches go.
        units: cells and batches, those of one cell together.
        measures: what is measured on the images, by name.
        process: the number of this process, for its file of seconds.

    Raises:
        UserError: an argument that the pipeline does not take, not enough memory, a full disk.
    """
    plan, own_scheduler = store.plan, pipe.scheduler
    try:
        for number, group in groupby(units, key=lambda unit: unit[0]):
            cell, batches = plan.cells[number], [batch for _, batch in group]
            pipe.scheduler = make_scheduler(cell.scheduler, own_scheduler) if cell.scheduler else own_scheduler
            request = request_of(plan, cell, [image for batch in batches for image in plan.images(batch)])
            with closing(sample(pipe, rule_of(plan, cell), request)) as pictures:  # which removes the rule
                for batch in batches:
                    images = plan.images(batch)
                    with counted(pipe) as counter:
                        made = [next(pictures) for _ in images]
                    for image, picture in zip(images, made):
                        if plan.keeps(image):
                            _save(picture, store.image_path(number, image))
                    arrays = measure_pictures(made, measures, counter.per_image(len(images)))
                    if not (cell.native or has_uncond(pipe)):
                        arrays["effective_scale"] = np.full(len(images), np.nan)
                    store.finish_batch(number, batch, arrays, sum(picture.seconds for picture in made), process)
                    yield len(images)
    finally:
        pipe.scheduler = own_scheduler


def try_batch(pipe: Any, plan: Plan, measures: Mapping[str, Measure]) -> None:
    """Sample and measure the first batch of a plan, and keep nothing of it. UserError as `sample_units`."""
    with TemporaryDirectory(prefix="diffguide-") as folder:
        store = Store(folder, plan)
        store.make_folders()
        list(sample_units(pipe, store, [(0, 0)], measures))


def rule_of(plan: Plan, cell: Cell) -> Guidance | None:
    """The rule of a cell with what is calibrated for the model; None for the pipeline's own. UserError as `rule_on`."""
    return rule_on(plan.model, cell.guidance, cell.guidance_scale, cell.steps, cell.scheduler)


def has_uncond(pipe: Any) -> bool:
    """Whether there is an unconditional prediction, from which an effective scale is measured."""
    return layout_of(pipe).calls != "single"


def measure_pictures(
    pictures: Sequence[Picture], measures: Mapping[str, Measure], evaluations: float = float("nan")
) -> Arrays:
    """What is kept of a batch, a row per picture: the measures, evaluations, effective scale and the trace.

    evaluations: per image, where there is no trace to tell.
    """
    images = torch.stack([to_tensor(picture.image) for picture in pictures])
    prompts = [picture.settings.prompt for picture in pictures]
    arrays = {name: measure(images, prompts).detach().cpu().numpy() for name, measure in measures.items()}
    return arrays | _traced(pictures, evaluations)


def to_tensor(image: Image) -> Tensor:
    """(3, H, W) in [0, 1] from a picture's 8-bit values: those that its file holds."""
    return pixels_of(image).float() / 255


def _traced(pictures: Sequence[Picture], evaluations: float) -> Arrays:
    trace = pictures[0].trace
    if trace is None:
        unknown = np.full(len(pictures), np.nan)
        return {"evaluations": np.full(len(pictures), evaluations), "effective_scale": unknown}
    places = [picture.place for picture in pictures]
    steps = {name: torch.stack([getattr(record, name) for record in trace])[:, places].T for name in TRACED}
    needed = torch.tensor([[record.evaluations for _ in places] for record in trace]).T.double()
    alone = torch.tensor([[1 + record.extra_evaluations for _ in places] for record in trace]).T.double()
    # A rule leaves a prediction out once all of a batch can do without it. An image that was conditional before that
    # would have done so alone, and neither its cost nor its trace is to depend on the others.
    conditional = torch.tensor([[record.decision[place] == "conditional" for place in places] for record in trace]).T
    needed = needed.where(~conditional, alone.minimum(needed))
    steps["effective_scale"] = steps["effective_scale"].masked_fill(conditional, 1)
    for name in ("cosine", "ratio", "update_norm"):
        steps[name] = steps[name].masked_fill(conditional, torch.nan)
    kept = {f"trace_{name}": values.numpy().astype(np.float32) for name, values in steps.items()}
    scales = steps["effective_scale"].double().nanmean(dim=1)
    timesteps = np.tile([record.timestep for record in trace], (len(places), 1))
    return kept | {
        "evaluations": needed.sum(dim=1).numpy(),
        "effective_scale": scales.numpy(),
        "trace_evaluations": needed.numpy().astype(np.float32),
        "trace_timestep": timesteps,
    }


def _save(picture: Picture, path: Path) -> None:
    """Write a picture, not flushed to the disk, which can take 10 ms: its batch has its hash."""
    with whole(path, FULL) as temporary:
        if path.suffix == ".png":
            temporary.write_bytes(encoded_png(picture.image, picture.settings))
        else:
            picture.image.save(temporary, format="WEBP", lossless=True, exact=True)
