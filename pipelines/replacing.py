"""An attribute of its own for one object, such as a method that watches, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def replaced(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Give an object this attribute, past its `__setattr__`; what is returned gives back the one that it had, if any.

    A pipeline's `__setattr__` would write a part into its config; and what others have put on the object, such as a
    method of theirs, is to be there again.
    """
    own = vars(owner)
    before = {key: own[key] for key in own.keys() & {name}}
    own[name] = value

    def restore() -> None:
        own.pop(name, None)
        own.update(before)

    return restore
