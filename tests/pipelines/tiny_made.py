"""How to make a pipeline whose text encoders would cost more than everything else, and random inputs for it."""

from collections.abc import Callable
from inspect import isclass, isroutine
from typing import Any

import diffusers
import tiny_parts as parts
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny_inputs import TRANSFORMER
from tiny_parts import awake
from torch import Tensor

from diffguide.guidance import ClassifierFreeGuidance, NormMatching

FLOW = FlowMatchEulerDiscreteScheduler
ROPE = {"axes_dims_rope": (4, 4, 8), "attention_head_dim": 16, "num_attention_heads": 2}
WIDE = {"num_layers": 1, "num_single_layers": 1, "joint_attention_dim": 16}
GIVEN: dict[str, Any] = {"batch": (2, 1), **TRANSFORMER}  # pipelines repeat given embeddings each in its own way


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def embedded(mask_dtype: torch.dtype = torch.bool, **shapes: tuple[int, ...]) -> Callable[[int, int], dict[str, Any]]:
    """Inputs by name and shape for one prompt, and the same again as the negative prompt; masks are all ones."""

    def inputs(prompts: int, images: int) -> dict[str, Any]:
        given: dict[str, Any] = {"prompt": None}
        for seed, prefix in enumerate(("", "negative_")):
            for name, shape in shapes.items():
                given[prefix + name] = noise(prompts, *shape, seed=seed)
                if "mask" in name:
                    given[prefix + name] = torch.ones(prompts, *shape, dtype=mask_dtype)
        return given

    return inputs


def matched(scale: float) -> NormMatching:
    return NormMatching(ClassifierFreeGuidance(scale))


def flow() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


def still() -> FlowMatchEulerDiscreteScheduler:
    """For pipelines that give their scheduler no size to shift its sigmas by."""
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def of(name: str, transformer: Callable[[], Any], methods: Any = None, **parts: Any) -> Callable[[], Any]:
    """How to make the pipeline class `name`; parts that are not named are None, functions are called.

    methods: in place of the pipeline's own, for text encoders that would cost more than everything else.
    """

    def make() -> Any:
        cls = getattr(diffusers, name)
        if methods:
            cls = type(name, (cls,), methods | {"__module__": cls.__module__})
        given = {"scheduler": flow, "transformer": transformer} | parts
        made = {part: value() if isroutine(value) or isclass(value) else value for part, value in given.items()}
        expected = cls._get_signature_keys(cls)[0]
        return cls(**(dict.fromkeys(expected) | made))

    return make


def model(name: str, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(diffusers, name)(**options)


EMBEDS = {"inputs": embedded(prompt_embeds=(5, 16)), **GIVEN}
MASKED = {"inputs": embedded(prompt_embeds=(5, 16), prompt_embeds_mask=(5,)), **GIVEN}


class Processor:
    """What pipelines ask of their processor while they are made: how long a system prompt is, how to see pictures."""

    image_processor = None
    tokenizer = type("Tokenizer", (), {"encode": staticmethod(lambda text: [1])})

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        return [[0]]


def words(pipe: Any, prompt: Any, copies: int = 1, tokens: int = 5, width: int = 16) -> Tensor:
    """(prompts * copies, tokens, width): random, and another for each text."""
    texts = [prompt] if isinstance(prompt, str) else prompt
    seeds = [sum(text.encode()) for text in texts for _ in range(copies)]
    return torch.cat([noise(1, tokens, width, seed=seed) for seed in seeds]).to(pipe.transformer.dtype)


def textless(cls: type, transformer: Any, scheduler: Any, vae: Any = None, **more: Any) -> Any:
    """A pipeline that gets its text states from the caller."""
    nothing = {"tokenizer": None, "text_encoder": None}
    return cls(**nothing, vae=vae or parts.kl_vae(), transformer=awake(transformer), scheduler=scheduler, **more)
