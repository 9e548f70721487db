"""Pictures of a pipeline as tensors, a batch at a time, and their rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffguide.guidance.reward import as_reward

from .errors import UserError, one_line
from .handle import GuidanceCallback
from .sampling import call_pipeline

if TYPE_CHECKING:
    from PIL.Image import Image

Place = Callable[[slice], dict[str, Any]]
"""The arguments of a call that tell pictures apart, of those in a slice of all."""

_OWN = ("generator", "latents", "num_images_per_prompt", "output_type", "prompt", "return_dict")


def pipeline_of(pipe: Any) -> Any:
    """The pipeline itself, of a pipeline or of what `guide` returns; its rule acts in it. UserError: it was removed."""
    if not isinstance(pipe, GuidanceCallback):
        return pipe
    pipe.check_attached()
    return pipe.pipe


def for_prompts(shared: Mapping[str, Any], prompts: Sequence[str]) -> dict[str, Any]:
    """The arguments of a call for several prompts, of which each has the one negative prompt, where there is one."""
    negative = shared.get("negative_prompt")
    each = {"negative_prompt": [negative] * len(prompts)} if isinstance(negative, str) else {}
    return {**shared, **each, "prompt": list(prompts)}


class Sampler:
    """A pipeline, or what `guide` returns, and the arguments that all its calls share.

    UserError: an argument that is the sampler's own, or a batch size below 1.
    """

    def __init__(self, pipe: Any, shared: Mapping[str, Any], batch_size: int = 1):
        self.pipe, self.shared, self.batch_size = pipeline_of(pipe), dict(shared), batch_size
        own = [name for name in _OWN if name in shared]
        if own:
            raise UserError(f"{own[0]} cannot be given: it tells the candidates apart, or how they are read")
        if batch_size < 1:
            raise UserError(f"the batch size must be at least 1, not {batch_size}")

    def batches(
        self, prompts: Sequence[str], place: Place, latent: bool = False
    ) -> Iterator[tuple[Sequence[str], Tensor]]:
        """The prompts of a batch, and its images (n, 3, H, W) in [0, 1], or its final latents (n, ...)."""
        for start in range(0, len(prompts), self.batch_size):
            part = slice(start, start + self.batch_size)
            arguments = for_prompts(self.shared, prompts[part]) | place(part)
            arguments["output_type"] = "latent" if latent else "pt"
            yield prompts[part], call_pipeline(self.pipe, arguments, "a smaller batch_size, height or width")


class Scorer(Sampler):
    """A sampler whose pictures get a reward. UserError: as a Sampler, or what is no reward."""

    def __init__(self, pipe: Any, reward: Any, shared: Mapping[str, Any], batch_size: int = 1):
        super().__init__(pipe, shared, batch_size)
        try:
            self.reward = as_reward(reward)
        except ValueError as error:
            raise UserError(one_line(error)) from error

    def scored(self, prompts: Sequence[str], place: Place) -> Iterator[tuple[Tensor, float]]:
        """What the reward looked at, an image (3, H, W) in [0, 1] or latents (...), and what it said, one by one."""
        for texts, outputs in self.batches(prompts, place, self.reward.space == "latent"):
            yield from zip(outputs, rewards_of(self.reward, outputs, texts))

    def picture(self, output: Tensor, prompt: str, place: dict[str, Any]) -> Image:
        """The picture of an output of `scored`. Latents have none yet: it is sampled once more."""
        if self.reward.space == "latent":
            _, (output,) = next(self.batches([prompt], lambda _: place))
        return to_pictures(output[None])[0]


def rewards_of(reward: Any, outputs: Tensor, prompts: Sequence[str]) -> list[float]:
    """The rewards of outputs (n, ...). UserError: they are not n finite numbers, or the reward refuses."""
    try:
        with torch.no_grad():
            rewards = reward(outputs.float(), list(prompts)).float().cpu()
    except ValueError as error:
        raise UserError(one_line(error)) from error
    if rewards.shape != (len(outputs),) or not bool(rewards.isfinite().all()):
        raise UserError(f"reward {reward.name!r} must give {len(outputs)} finite numbers for as many images")
    return rewards.tolist()


def descending(scores: Sequence[float]) -> list[int]:
    """Indices, that of the highest score first; of equal ones the first."""
    return sorted(range(len(scores)), key=lambda k: -scores[k])


def to_pictures(images: Tensor) -> list[Image]:
    """Images (n, 3, H, W) in [0, 1] as pictures, rounded as diffusers does."""
    from PIL import Image

    pixels = images.float().mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]
