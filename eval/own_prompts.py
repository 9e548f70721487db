"""The prompts that pictures of `diffguide generate` carry, so that each is measured against its own."""

from __future__ import annotations

import json
import struct

from diffguide.pipelines.metadata import CHUNK, MAX_BYTES

_PNG = b"\x89PNG\r\n\x1a\n"


class OwnPrompt(str):
    """The prompt that a picture says it was made of, in the text that `diffguide generate` writes into it."""


def own_prompt(content: bytes) -> OwnPrompt | None:
    """The prompt in the `diffguide` chunk of a PNG file; None where there is none that can be read."""
    if not content.startswith(_PNG):
        return None
    place = len(_PNG)
    while place + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        name, _, text = content[place + 8 : place + 8 + min(length, MAX_BYTES)].partition(b"\0")
        if kind == b"tEXt" and name == CHUNK.encode():
            try:
                prompt = json.loads(text)["prompt"]
            except (ValueError, KeyError, TypeError, RecursionError):
                return None
            return OwnPrompt(prompt) if isinstance(prompt, str) else None
        if kind == b"IDAT":
            return None
        place += 12 + length
    return None
