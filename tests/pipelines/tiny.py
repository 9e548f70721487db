"""Tiny random pipelines of every family, with the real diffusers classes, in memory and deterministic; one table."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tiny_parts as parts
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    QwenImagePipeline,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
    WanPipeline,
)
from torch import Tensor

from diffguide.guidance import ClassifierFreeGuidance, Guidance, NormMatching

PROMPTS = ("red apple", "dog")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def seeded(make: Callable[[], Any]) -> Any:
    """What `make` makes, always with the same random weights; without dropout, its progress bar is off."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = make()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ddim(prediction: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction)


def sd(cls: type = StableDiffusionPipeline, prediction: str = "epsilon", in_channels: int = 4, **changes: Any) -> Any:
    modules = {
        "unet": parts.unet(in_channels=in_channels),
        "vae": parts.tiny_vae(),
        "text_encoder": parts.clip_text(),
        "tokenizer": parts.clip_tokenizer(),
        "scheduler": ddim(prediction),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return cls(**(modules | changes))


def sd_controlnet() -> StableDiffusionControlNetPipeline:
    return sd(StableDiffusionControlNetPipeline, controlnet=parts.controlnet())


def sdxl(cls: type = StableDiffusionXLPipeline, **changes: Any) -> Any:
    modules = {
        "unet": parts.unet(**parts.SDXL),
        "vae": parts.tiny_vae(),
        "text_encoder": parts.clip_text(),
        "text_encoder_2": parts.clip_text(projection=True),
        "tokenizer": parts.clip_tokenizer(),
        "tokenizer_2": parts.clip_tokenizer(),
        "scheduler": ddim(),
        "add_watermarker": False,
    }
    return cls(**(modules | changes))


def sd3(cls: type = StableDiffusion3Pipeline, **changes: Any) -> Any:
    modules = {
        "transformer": parts.sd3_transformer(),
        "vae": parts.kl_vae(),
        "text_encoder": parts.clip_text(projection=True),
        "text_encoder_2": parts.clip_text(projection=True),
        "text_encoder_3": None,
        "tokenizer": parts.clip_tokenizer(),
        "tokenizer_2": parts.clip_tokenizer(),
        "tokenizer_3": None,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    return cls(**(modules | changes))


def flux(cls: type = FluxPipeline, **changes: Any) -> Any:
    modules = {
        "transformer": parts.flux_transformer(),
        "vae": parts.kl_vae(),
        "text_encoder": parts.clip_text(),
        "text_encoder_2": parts.t5(),
        "tokenizer": parts.clip_tokenizer(),
        "tokenizer_2": parts.t5_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }
    return cls(**(modules | changes))


def qwen(cls: type = QwenImagePipeline, **changes: Any) -> Any:
    modules = {
        "transformer": parts.qwen_transformer(),
        "vae": parts.qwen_vae(),
        "text_encoder": parts.qwen_text(),
        "tokenizer": parts.qwen_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }
    return cls(**(modules | changes))


def wan(cls: type = WanPipeline, **changes: Any) -> Any:
    modules = {
        "transformer": parts.wan_transformer(),
        "vae": parts.wan_vae(),
        "text_encoder": parts.t5(multilingual=True),
        "tokenizer": parts.t5_tokenizer(),
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    }
    return cls(**(modules | changes))


def wan22() -> WanPipeline:
    return wan(transformer_2=parts.wan_transformer(), boundary_ratio=0.8)


def picture(count: int, seed: int = 1) -> Tensor:
    """(count, 3, 16, 16) in [0, 1]."""
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def pictured(prompts: int, images: int) -> dict[str, Any]:
    return {"image": picture(prompts)}


def masked(prompts: int, images: int) -> dict[str, Any]:
    mask = torch.zeros(prompts, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    return {"image": picture(prompts), "mask_image": mask, "height": 16, "width": 16, "strength": 1.0}


@dataclass(frozen=True)
class Family:
    """A pipeline to be tested. inputs: what a call needs besides prompts, by the number of prompts and of
    images for each. fixed: what it needs whatever these are.

    scale, negative: the pipeline's own argument for the guidance scale, and the negative prompt that turns it on.
    native: the rule that is the pipeline's own guidance at that scale. off: the scale at which that is off.
    images: the argument for the number of images, "" where there is none. without: arguments that do not exist.
    batch: the largest number of prompts, and of images for each, that the pipeline can do.
    """

    name: str
    make: Callable[[], Any]
    prediction: str
    inputs: Callable[[int, int], dict[str, Any]] = lambda prompts, images: {}
    fixed: dict[str, Any] = field(default_factory=dict)
    scale: str = "guidance_scale"
    negative: str | None = None
    native: Callable[[float], Guidance] = ClassifierFreeGuidance
    images: str = "num_images_per_prompt"
    denoisers: tuple[str, ...] = ("unet",)
    off: float = 1.0
    output: str = "latent"
    without: tuple[str, ...] = ()
    batch: tuple[int, int] = (2, 2)

    def __str__(self) -> str:
        return self.name

    def build(self) -> Any:
        return seeded(self.make)

    def run(self, pipe: Any, prompts: int = 1, images: int = 1, steps: int = 4, **changes: Any) -> Tensor:
        """The final latents for the first `prompts` prompts, `images` of each."""
        options = {
            "prompt": list(PROMPTS[:prompts]),
            "num_inference_steps": steps,
            "output_type": self.output,
            "generator": torch.Generator().manual_seed(0),
            self.images: images,
        }
        options = {name: value for name, value in options.items() if name and name not in self.without}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # some pipelines do not hand their generator to the scheduler
            result = pipe(**(options | self.inputs(prompts, images) | self.fixed | changes))[0]
        return torch.stack(list(map(torch.as_tensor, result))) if isinstance(result, list) else torch.as_tensor(result)

    def run_native(self, pipe: Any, scale: float, prompts: int = 1, **changes: Any) -> Tensor:
        """As `run`, with the pipeline's own guidance at `scale`."""
        if self.negative is not None and scale > self.off:
            changes["negative_prompt"] = [self.negative] * prompts
        return self.run(pipe, prompts, **{self.scale: scale}, **changes)

    def modules(self, pipe: Any) -> list[Any]:
        return [getattr(pipe, name) for name in self.denoisers]


FLUX = {"scale": "true_cfg_scale", "negative": "", "denoisers": ("transformer",)}
QWEN = FLUX | {"negative": " ", "native": lambda scale: NormMatching(ClassifierFreeGuidance(scale))}
VIDEO = {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 16}
WAN = {"fixed": VIDEO, "images": "num_videos_per_prompt"}

FAMILIES = (
    Family("sd", sd, "epsilon"),
    Family("sd-v", lambda: sd(prediction="v_prediction"), "v_prediction"),
    Family(
        "sd-img2img",
        lambda: sd(StableDiffusionImg2ImgPipeline),
        "epsilon",
        lambda prompts, images: {"image": picture(prompts * images), "strength": 0.75},
    ),
    Family("sd-inpaint-4", lambda: sd(StableDiffusionInpaintPipeline), "epsilon", masked),
    Family("sd-inpaint-9", lambda: sd(StableDiffusionInpaintPipeline, in_channels=9), "epsilon", masked),
    Family("sd-controlnet", sd_controlnet, "epsilon", pictured),
    Family("sd-controlnet-guess", sd_controlnet, "epsilon", pictured, {"guess_mode": True}),
    Family("sdxl", sdxl, "epsilon", fixed={"height": 16, "width": 16}),
    Family("sd3", sd3, "flow", fixed={"height": 16, "width": 16}, denoisers=("transformer",)),
    Family("flux", flux, "flow", fixed={"height": 16, "width": 16, "max_sequence_length": 16}, **FLUX),
    Family("qwen", qwen, "flow", fixed={"height": 32, "width": 32}, **QWEN),
    Family("wan21", wan, "flow", **WAN, denoisers=("transformer",)),
    Family("wan22", wan22, "flow", **WAN, denoisers=("transformer", "transformer_2")),
)
