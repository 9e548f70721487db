"""Pipelines that make no unconditional prediction, for rules that need none; guidance is an input of their models."""

from __future__ import annotations

from typing import Any

from .layouts import Layout


def _single(*classes: str, **traits: Any) -> Layout:
    common: dict[str, Any] = {"calls": "single", "scale": "", "denoisers": ("transformer",), "scaled_timestep": True}
    return Layout(classes, **common | traits)


SINGLE: tuple[Layout, ...] = (
    _single(
        "LatentConsistencyModelPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
        denoisers=("unet",),
        scaled_timestep=False,
    ),
    _single(
        "FluxControlPipeline",
        "FluxControlImg2ImgPipeline",
        "FluxControlInpaintPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
        "FluxFillPipeline",
    ),
    _single("Flux2Pipeline", tokens="first"),
    _single("SanaSprintPipeline", "SanaSprintImg2ImgPipeline"),
)
