"""Tiny pipelines that make no unconditional prediction, and a rule that needs none and looks on."""

from typing import Any

import tiny_encoders as encoders
import tiny_parts as parts
from diffusers import (
    FluxControlPipeline,
    FluxFillPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelImg2ImgPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)
from families_sana import sana
from tiny import BETAS, flux, sd
from tiny_family import Family
from tiny_inputs import UNBINNED, gradient, masked_texts, picture
from torch import Tensor

from diffguide.guidance import Guidance, Step


class Looking(Guidance):
    """The conditional prediction alone; keeps its steps, and x0 of each."""

    acts_alone = True

    def __init__(self) -> None:
        super().__init__(1.0)
        self.steps: list[Step] = []
        self.denoised: list[Tensor] = []

    def needs_uncond(self, step: Step) -> bool:
        return False

    def guide_cond(self, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
        a, b = step.to_space("denoised")
        self.steps.append(step)
        self.denoised.append(a * latents + b * cond)
        return cond


def lcm(cls: type = LatentConsistencyModelPipeline) -> Any:
    scheduler = LCMScheduler(**BETAS, clip_sample=False)
    return sd(cls, unet=parts.unet(time_cond_proj_dim=16), scheduler=scheduler, vae=parts.kl_vae())


def flux_with(cls: type, in_channels: int) -> Any:
    config = own_config(parts.flux_transformer()) | {"in_channels": in_channels, "out_channels": 16}
    return flux(cls, transformer=FluxTransformer2DModel(**config))


def own_config(model: Any) -> dict[str, Any]:
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


def sprint() -> SanaSprintPipeline:
    made = sana()
    transformer = SanaTransformer2DModel(**own_config(made.transformer) | {"guidance_embeds": True})
    return SanaSprintPipeline(
        tokenizer=encoders.clip_tokenizer(),
        text_encoder=None,
        vae=made.vae,
        transformer=transformer,
        scheduler=SCMScheduler(),
    )


def sprint_inputs(prompts: int, images: int) -> dict[str, Any]:
    return {name: value for name, value in masked_texts(prompts, images).items() if "negative" not in name}


FLUX = {"height": 16, "width": 16, "max_sequence_length": 16}

SINGLE = (
    Family("lcm", lcm, "epsilon"),
    Family(
        "lcm-img2img",
        lambda: lcm(LatentConsistencyModelImg2ImgPipeline),
        "epsilon",
        lambda prompts, images: {"image": picture(prompts * images), "strength": 0.75},
    ),
    Family(
        "flux-control",
        lambda: flux_with(FluxControlPipeline, 32),
        "flow",
        lambda prompts, images: {"control_image": gradient(16)},
        FLUX,
        denoisers=("transformer",),
    ),
    Family(
        "flux-fill",
        lambda: flux_with(FluxFillPipeline, 48),
        "flow",
        lambda prompts, images: {"image": gradient(16), "mask_image": gradient(16)},
        FLUX,
        denoisers=("transformer",),
    ),
    Family(
        "sana-sprint",
        sprint,
        "flow",
        sprint_inputs,
        {"height": 32, "width": 32, "intermediate_timesteps": None} | UNBINNED,
        denoisers=("transformer",),
    ),
)
