"""Modules that gradients go through, and that are left as they were found."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")

Change = Callable[[Any], Callable[[], None]]


def _shared(change: Change) -> Change:
    """A change of a module that calls of pipelines in several threads may ask for: made once, undone after the last."""
    held: WeakKeyDictionary[nn.Module, tuple[list[None], Callable[[], None]]] = WeakKeyDictionary()
    lock = threading.Lock()

    @functools.wraps(change)
    def begin(module: nn.Module) -> Callable[[], None]:
        with lock:
            if module not in held:
                held[module] = [], change(module)
            held[module][0].append(None)
        return functools.partial(end, module)

    def end(module: nn.Module) -> None:
        with lock:
            holders, undo = held[module]
            holders.pop()
            if not holders:
                del held[module]
                undo()

    return begin


@_shared
def freeze(module: nn.Module) -> Callable[[], None]:
    """No parameter takes a gradient from now on; returns what undoes this."""
    taking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in taking:
        parameter.requires_grad_(False)

    def undo() -> None:
        for parameter in taking:
            parameter.requires_grad_(True)

    return undo


@_shared
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
