"""diffusers' guiders as the tests want them."""

from typing import Any

from diffusers import LayerSkipConfig
from tiny import FAMILIES

BY_NAME = {family.name: family for family in FAMILIES}


STEPS = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}


def where(name: str) -> str:
    """The blocks of a denoiser, as guiders want them named."""
    return "down_blocks.1.attentions.0.transformer_blocks" if name in ("sd", "sdxl") else "transformer_blocks"


def layers(name: str = "sdxl", **options: Any) -> LayerSkipConfig:
    return LayerSkipConfig([0], fqn="blocks" if name.startswith("wan") else where(name), **options)
