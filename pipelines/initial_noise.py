"""The initial noise of a pipeline: taken from a call as it would be, and put into others through `latents=`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from .errors import UserError
from .replacing import replaced
from .sampling import call_pipeline
from .scoring import for_prompts, pipeline_of
from .switching import call_parameters


@dataclass(frozen=True)
class InitialNoise:
    """The noise (...) that a pipeline draws for one seed, as its `latents` argument takes it: no batch dimension.

    state: of the random generator once the noise is drawn. Samplers that add noise at their steps go on from there, so
    that pictures of different initial noise have those in common.
    """

    noise: Tensor
    state: Tensor

    def arguments(self, noises: Tensor) -> dict[str, Any]:
        """For a call of the pipeline on noises (n, ...)."""
        generators = [torch.Generator() for _ in noises]
        for generator in generators:
            generator.set_state(self.state)
        return {"latents": noises.to(self.noise), "generator": generators}


def perturbation_seed(seed: int) -> int:
    """The seed of perturbations of the noise of `seed`: with that itself the first would be the noise once more."""
    return Random(f"perturbations {seed}").getrandbits(63)


def initial_noise(pipe: Any, prompt: str, seed: int, shared: Mapping[str, Any]) -> InitialNoise:
    """What the call `pipe(prompt, **shared)` of one picture with this seed begins with; nothing is sampled.

    `prepare_latents` of the pipeline decides: its shape, layout and dtype, and the factor by which it scales `latents`
    that it is given, such as the scheduler's `init_noise_sigma`.

    UserError: a pipeline that takes no `latents`, or arguments that it does not take.
    """
    native = pipeline_of(pipe)
    name, prepare = type(native).__name__, getattr(native, "prepare_latents", None)
    own = call_parameters(type(native))[1]
    if "latents" not in own or prepare is None or "latents" not in inspect.signature(prepare).parameters:
        raise UserError(f"{name} takes no latents: its initial noise cannot be chosen")
    generator = torch.Generator("cpu").manual_seed(seed)
    taken: list[InitialNoise] = []

    def take(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(prepare).bind(*args, **kwargs)
        drawn = _first(prepare(*args, **kwargs))
        state = generator.get_state()
        bound.arguments["latents"] = torch.ones_like(drawn)
        factor = _first(prepare(*bound.args, **bound.kwargs)).flatten()[0]
        noise = (drawn.float() / factor.float()).to(drawn.dtype)
        bound.arguments["latents"] = noise
        again = _first(prepare(*bound.args, **bound.kwargs))
        if len(drawn) != 1 or again.shape != drawn.shape or not torch.allclose(again, drawn, rtol=0.01, atol=0.01):
            raise UserError(f"{name} does not take its latents as it makes them: its initial noise cannot be chosen")
        taken.append(InitialNoise(noise[0], state))
        raise _Taken

    restore = replaced(native, "prepare_latents", take)
    try:
        call_pipeline(native, for_prompts(shared, [prompt]) | {"generator": [generator]})
    except _Taken:
        native.maybe_free_model_hooks()
    finally:
        restore()
    if not taken:
        raise UserError(f"{name} makes no use of its prepare_latents: its initial noise cannot be chosen")
    return taken[0]


class _Taken(Exception):  # noqa: N818  # not an error: it ends the call once the noise is there
    pass


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
