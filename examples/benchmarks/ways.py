"""The ways to leave out unconditional evaluations that evaluations.py compares, on one pipeline."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from diffguide.guidance import AdaptiveGuidance, ClassifierFreeGuidance, LinearAdaptiveGuidance
from diffguide.pipelines import guide
from diffguide.pipelines.calibrated import calibrated_options

CALIBRATED_STEPS = (20, 25)  # for which coefficients ship


def variants(pipe: Any, model: str, scale: float, args: argparse.Namespace) -> dict[str, Any]:
    """Name -> context manager whose value is the callable that is timed, with the arguments of the pipeline.

    Both adaptive rules are as the calibrations that ship with the embedded model have them, for the number of steps;
    LinearAG is left out where there is none.
    """
    given = {"threshold": args.ag_threshold, "space": "denoised"} if args.ag_threshold else {}
    ag = AdaptiveGuidance(scale, **(given or calibrated_options("ag", model, args.steps)))
    rules = {"engine, plain guidance": ClassifierFreeGuidance(scale), f"AG, threshold {ag.threshold:.5f}": ag}
    if args.linear_ag or args.steps in CALIBRATED_STEPS:
        coefficients = args.linear_ag or calibrated_options("linear-ag", model, args.steps)["coefficients"]
        rules["LinearAG"] = LinearAdaptiveGuidance(scale, coefficients)
    found: dict[str, Any] = {"pipeline, plain guidance": lambda: contextlib.nullcontext(native(pipe, scale))}
    for name, rule in rules.items():
        found[name] = lambda rule=rule: guide(pipe, rule)
    found["diffusers FasterCache, unconditional half"] = lambda: faster_cache(pipe, scale)
    found["diffusers cutoff callback at half"] = lambda: contextlib.nullcontext(cut_off(pipe, scale))
    found["engine, conditional after step 0"] = lambda: guide(pipe, AdaptiveGuidance(scale, -1.0))
    return found


def native(pipe: Any, scale: float, **more: Any) -> Callable[..., Any]:
    """The pipeline's own guidance."""
    return lambda *args, **kwargs: pipe(*args, guidance_scale=scale, **more, **kwargs)


def cut_off(pipe: Any, scale: float) -> Callable[..., Any]:
    """Guidance ends after half of the steps."""
    from diffusers.callbacks import SD3CFGCutoffCallback, SDCFGCutoffCallback

    kind = SD3CFGCutoffCallback if hasattr(pipe, "transformer") else SDCFGCutoffCallback
    return native(pipe, scale, callback_on_step_end=kind(cutoff_step_ratio=0.5))


@contextlib.contextmanager
def faster_cache(pipe: Any, scale: float) -> Iterator[Callable[..., Any]]:
    """Every fifth unconditional evaluation in the lower two thirds of the noise, its defaults; attention as it is.

    It halves whatever tensor comes by position. A UNet's timestep, which has no rows, does: it is named on the way.
    """
    from diffusers.hooks import FasterCacheConfig, HookRegistry, apply_faster_cache

    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    names = ["sample", "hidden_states", "encoder_hidden_states", "pooled_projections"]
    if hasattr(pipe, "transformer"):
        names.append("timestep")  # a row for each picture
    config = FasterCacheConfig(
        spatial_attention_block_skip_range=None,
        tensor_format="BCHW",
        current_timestep_callback=lambda: float(pipe.scheduler.timesteps[pipe.scheduler.step_index or 0]),
        attention_weight_callback=lambda module: 0.5,
        _unconditional_conditional_input_kwargs_identifiers=names,
    )
    naming = denoiser.register_forward_pre_hook(by_name, with_kwargs=True)
    apply_faster_cache(denoiser, config)
    try:
        yield native(pipe, scale)
    finally:
        HookRegistry.check_if_exists_or_initialize(denoiser).remove_hook("faster_cache_denoiser", recurse=True)
        naming.remove()


def by_name(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
    """The arguments of a UNet without those by position; those of a transformer have names already."""
    return (), dict(zip(("sample", "timestep"), args)) | kwargs
