"""How a pipeline class evaluates its denoiser under classifier-free guidance: one row of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """One pipeline class (or a family of them that behave alike).

    classes: names of the diffusers classes. calls: "uncond-first" and "cond-first" are one call with both halves in one
    batch, in that order; "two" is two calls a step, cond first. scale: the argument of `__call__` that turns the
    pipeline's own guidance on. negative: what has to be given as `negative_prompt` for guidance to be on, or None.
    other_scales: further scales of its own, which do not count under a rule.
    denoisers: the attributes that hold denoisers. unsupported: arguments that bring further passes which no rule of
    ours owns. scaled_timestep: the model is handed another timestep than the scheduler's. refused: why no rule can act
    at all, or "".
    """

    classes: tuple[str, ...]
    calls: str = "uncond-first"
    scale: str = "guidance_scale"
    negative: str | None = None
    other_scales: tuple[str, ...] = ()
    denoisers: tuple[str, ...] = ("unet",)
    unsupported: tuple[str, ...] = ()
    scaled_timestep: bool = False
    refused: str = ""
