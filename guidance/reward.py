"""Rewards: what says how good images are. One protocol for all of them.

images      (B, 3, H, W)   in [0, 1]; for a reward of the space "latent" x0 latents (B, C, h, w) in their place
prompts     B texts, or None
score       (B,)           higher is better
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .tensors import on_device

if TYPE_CHECKING:
    from typing_extensions import Self

SPACES = ("image", "latent")


class Reward:
    """The base class of rewards; a subclass overrides `score`. Calling one checks what goes in and what comes out.

    name: for messages and records. differentiable: whether the score has a gradient with respect to the images.
    space: "image" or "latent". needs_prompts: whether there is no score without prompts.
    """

    name: str = "reward"
    differentiable: bool = True
    space: str = "image"
    needs_prompts: bool = True

    def score(self, images: Tensor, prompts: Sequence[str] | None) -> Tensor:
        """(B, 3, H, W) in [0, 1], or (B, C, h, w) latents, and B texts or None -> (B,)."""
        raise TypeError(f"{type(self).__name__} must override score()")

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """The scores (B,), on the device of the images.

        Raises:
            ValueError: images of another shape, prompts that are missing or not as many as images, a score of another
                shape, or one without gradient, where the images ask for it.
        """
        self._check_images(images)
        prompts = self._checked_prompts(prompts, len(images))
        scores = self.score(images, prompts)
        if not isinstance(scores, Tensor) or scores.shape != (len(images),):
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"reward {self.name!r} must give one number an image, ({len(images)},), not {shape}")
        if images.requires_grad and torch.is_grad_enabled() and not scores.requires_grad and self.differentiable:
            raise ValueError(
                f"reward {self.name!r} gave scores without gradient: declare it with differentiable=False, "
                "or compute it by torch on the images it is given"
            )
        return on_device(scores, images.device)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move `self.model`, if there is one, as `torch.nn.Module.to`."""
        if isinstance(model := getattr(self, "model", None), torch.nn.Module):
            model.to(*args, **kwargs)
        return self

    def _check_images(self, images: Tensor) -> None:
        fits = isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point()
        if self.space == "image":
            wanted, fits = "images (B, 3, H, W), floats in [0, 1]", fits and images.shape[1] == 3
        else:
            wanted = "latents (B, C, h, w)"
        if not fits:
            given = f"{tuple(images.shape)} of {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"reward {self.name!r} takes {wanted}, not {given}")

    def _checked_prompts(self, prompts: Sequence[str] | None, count: int) -> Sequence[str] | None:
        if isinstance(prompts, str):
            prompts = [prompts]
        if not prompts:  # a pipeline that was called without texts has ()
            if self.needs_prompts:
                raise ValueError(f"reward {self.name!r} needs prompts, one for each of the {count} images")
            return None
        if len(prompts) != count:
            raise ValueError(f"reward {self.name!r} needs one prompt an image: {len(prompts)} for {count} images")
        return prompts

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class CallableReward(Reward):
    """A Python function as a reward; see `as_reward`."""

    def __init__(
        self, function: Callable[..., Any], *, name: str, differentiable: bool, space: str, needs_prompts: bool
    ):
        self.function = function
        self.name, self.differentiable, self.space, self.needs_prompts = name, differentiable, space, needs_prompts
        self._takes_prompts = "prompts" in _roles(function)
        self.checks_finite = True
        """Whether scores that are not finite are refused here; off where the caller does it, and knows the image."""
        self._checked = False

    def score(self, images: Tensor, prompts: Sequence[str] | None) -> Tensor:
        """What the function gives; numbers, lists and arrays become a tensor. ValueError: NaN or infinite."""
        found = self.function(images, prompts) if self._takes_prompts else self.function(images)
        try:
            scores = found if isinstance(found, Tensor) else torch.as_tensor(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"reward {self.name!r} must give numbers, not {type(found).__name__}") from error
        scores = scores if scores.is_floating_point() else scores.float()
        # On a GPU only once: to look at numbers there waits for all that is queued.
        if self.checks_finite and (scores.device.type == "cpu" or not self._checked):
            if not scores.isfinite().all():
                raise ValueError(f"reward {self.name!r} gave a score that is not finite")
            self._checked = True
        return scores


def as_reward(
    reward: Any,
    *,
    name: str | None = None,
    differentiable: bool = True,
    space: str = "image",
    needs_prompts: bool | None = None,
) -> Any:
    """Anything that scores images as a reward. What has the four attributes of one already is given back as it is.

    Args:
        reward: a callable f(images), f(images, prompts), which needs prompts, or f(images, prompts=None), which does
            not. It gives (B,), as a tensor or as numbers.
        name: for messages; None: the callable's own.
        differentiable: whether torch can differentiate it; a call on images that ask for a gradient checks that.
        space: "image" or "latent", what it is called with.
        needs_prompts: None: as the signature says.

    Raises:
        ValueError: it is not callable, cannot be called with images, or `space` is another word.
    """
    if isinstance(reward, type) or not callable(reward):
        raise ValueError(f"a reward is a callable f(images, prompts) -> (B,), not {reward!r}")
    if all(hasattr(reward, key) for key in ("differentiable", "space", "needs_prompts", "name")):
        return reward
    if space not in SPACES:
        raise ValueError(f"the space of a reward is one of {', '.join(SPACES)}, not {space!r}")
    roles = _roles(reward)
    return CallableReward(
        reward,
        name=name or str(getattr(reward, "__name__", type(reward).__name__)),
        differentiable=differentiable,
        space=space,
        needs_prompts=roles.get("prompts", False) if needs_prompts is None else needs_prompts,
    )


def _roles(function: Callable[..., Any]) -> dict[str, bool]:
    """Which of images and prompts a callable takes by position, and whether it must be given them."""
    target = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # builtins that do not say
        return {"images": True}
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = [p for p in parameters if p.kind in kinds]
    required = [p for p in parameters if p.default is p.empty and p.kind in (*kinds, inspect.Parameter.KEYWORD_ONLY)]
    roles = dict(zip(("images", "prompts"), (p.default is p.empty for p in given)))
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        roles = {"images": True, "prompts": False} | roles
    if not roles or any(p not in given[:2] for p in required):
        raise ValueError(f"a reward is called with (images) or (images, prompts), which {function!r} does not take")
    return roles
