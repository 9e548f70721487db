"""What a tiny pipeline of the tests is, and how it is built and run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffguide.guidance import ClassifierFreeGuidance, Guidance

PROMPTS = ("red apple", "dog")


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
