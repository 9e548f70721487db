"""A UNet that takes the guidance scale as an input, as those of latent consistency models do (arXiv 2310.04378)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

GUIDANCE_EMBEDDING = 256
"""Numbers that a guidance scale is embedded in, as in the authors' code."""


def with_scale_input(teacher: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy of a UNet with a further input, the guidance scale, as latent consistency models have it.

    Its weights for that are 0, so that at any scale it predicts what the teacher does. ValueError: a UNet that a copy
    cannot be made of.
    """
    # without the list of what an older file left to its defaults, which would win over what is set here
    config = {name: value for name, value in teacher.config.items() if name != "_use_default_values"}
    unet = type(teacher).from_config(config | {"time_cond_proj_dim": GUIDANCE_EMBEDDING})
    missing, unexpected = unet.load_state_dict(teacher.state_dict(), strict=False)
    wrong = [*(name for name in missing if name != "time_embedding.cond_proj.weight"), *unexpected]
    if wrong:
        raise ValueError(f"this UNet cannot have a scale as its input: {', '.join(wrong[:3])} do not fit")
    unet.time_embedding.cond_proj.weight.data.zero_()
    return unet
