"""Modules that gradients go through, and that are left as they were found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")


def freeze(module: nn.Module) -> Callable[[], None]:
    """No parameter takes a gradient from now on; returns what undoes this."""
    taking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in taking:
        parameter.requires_grad_(False)

    def undo() -> None:
        for parameter in taking:
            parameter.requires_grad_(True)

    return undo


def checkpoint(module: Any) -> Callable[[], None]:
    """Let a model of diffusers compute its activations anew when gradients need them; returns what undoes this."""
    before = [
        (part, {name: vars(part)[name] for name in CHECKPOINTING if name in vars(part)}) for part in module.modules()
    ]
    module.enable_gradient_checkpointing()

    def undo() -> None:
        for part, own in before:
            for name in CHECKPOINTING:
                vars(part).pop(name, None)
            vars(part).update(own)

    return undo
