"""What a picture says about itself: two text chunks of its PNG file.

`parameters` is the text of AUTOMATIC1111's web UI, which viewers and model sites read. `diffguide` is JSON with all
that is needed to make the same picture again; `diffguide generate --from-image` reads it back.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import MISSING, asdict, dataclass, field, fields
from io import BytesIO
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .errors import UserError, one_line
from .files import whole

CHUNK, SHEET_CHUNK = "diffguide", "diffguide-sheet"
HEAD = 1024
"""Bytes of a file by which a contact sheet is known."""
MAX_BYTES = 256 * 1024
"""A longer chunk is not read: an honest one is a few kilobytes."""


@dataclass(frozen=True)
class Settings:
    """How one picture was made.

    rule: a short name of `rule_names`, "native", or the class of another rule. options: all of the rule's options, the
    defaults too, so that the record outlives a change of defaults. scheduler: its short name, None for the model's own.
    evaluations: of the denoiser, for this picture. steps, guidance_scale and evaluations are None where unknown.
    modifiers: what goes around the rule, short names of `rule_names`, with all of their options.
    noise: the file beside the picture that holds its initial noise, where that was searched for and is not the seed's.
    """

    prompt: str
    model: str
    seed: int
    height: int
    width: int
    negative_prompt: str | None = None
    rule: str = "native"
    options: dict[str, Any] = field(default_factory=dict)
    guidance_scale: float | None = None
    steps: int | None = None
    scheduler: str | None = None
    scheduler_class: str = ""
    dtype: str = "float32"
    device: str = "cpu"
    evaluations: float | None = None
    noise: str | None = None
    modifiers: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a picture depends on."""
    import platform
    from importlib.metadata import version

    packages = {name: version(name) for name in ("diffguide", "torch", "diffusers", "transformers")}
    return packages | {"python": platform.python_version()}


def parameters_text(settings: Settings) -> str:
    """The `parameters` text of AUTOMATIC1111's web UI: prompt, negative prompt, one line of `key: value` pairs."""
    rules = {settings.rule: settings.options} | settings.modifiers
    pairs = {
        "Steps": settings.steps,
        "Sampler": settings.scheduler or settings.scheduler_class,
        "CFG scale": settings.guidance_scale,
        "Seed": settings.seed,
        "Initial noise": settings.noise,
        "Size": f"{settings.width}x{settings.height}",
        "Model": Path(settings.model).stem if settings.model.endswith(".safetensors") else Path(settings.model).name,
        "Guidance rule": "+".join(rules),
        **{
            f"{rule.upper()} {name}": value
            for rule, options in rules.items()
            for name, value in options.items()
            if value is not None
        },
        "NFE": settings.evaluations,
        "Version": f"diffguide {settings.versions.get('diffguide', '')}".strip(),
    }
    line = ", ".join(f"{key}: {_quote(value)}" for key, value in pairs.items() if value not in (None, ""))
    negative = [f"Negative prompt: {settings.negative_prompt}"] if settings.negative_prompt else []
    return "\n".join([settings.prompt, *negative, line])


def save_png(image: Image.Image, path: Path, settings: Settings | None = None, sheet: bool = False) -> None:
    """Write `image` with its settings, if any, so that `path` holds the whole picture or is left untouched.

    sheet: whether this is a contact sheet, which the file then says. UserError if the file cannot be written.
    """
    with whole(path) as temporary:
        temporary.write_bytes(encoded_png(image, settings, sheet))


def encoded_png(image: Image.Image, settings: Settings | None = None, sheet: bool = False) -> bytes:
    """What `save_png` writes."""
    info = PngInfo()
    if sheet:
        info.add_text(SHEET_CHUNK, "contact sheet")
    if settings is not None:
        info.add_text("parameters", parameters_text(settings))
        info.add_text(CHUNK, json.dumps(asdict(settings)))
    encoded = BytesIO()
    image.save(encoded, format="PNG", pnginfo=info)
    return encoded.getvalue()


def is_sheet(path: Path) -> bool:
    """Whether a file is a contact sheet of `diffguide generate`, under whatever name."""
    if path.suffix.lower() != ".png":
        return False
    try:
        with open(path, "rb") as file:
            return begins_a_sheet(file.read(HEAD))
    except OSError:
        return False


def begins_a_sheet(data: bytes) -> bool:
    """The same of the first `HEAD` bytes of a PNG file."""
    return SHEET_CHUNK.encode() in data


def read_settings(path: Path) -> Settings:
    """The settings in the `diffguide` chunk of a PNG file. The file is not trusted: every value's type is checked.

    UserError: not a readable PNG file, no such chunk, a chunk that is too long or not what `save_png` writes.
    """
    text = _read_chunk(path)
    where = f"the diffguide chunk of {str(path)!r}"
    if len(text) > MAX_BYTES:
        raise UserError(f"{where} is longer than {MAX_BYTES} bytes: it was not written by diffguide")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON") from error
    if not isinstance(record, dict):
        raise UserError(f"{where} is not a JSON object")
    required = {entry.name for entry in fields(Settings) if MISSING is entry.default is entry.default_factory}
    missing = required - record.keys()
    if missing:
        raise UserError(f"{where} lacks {min(missing)!r}")
    known = {name: hint for name, hint in get_type_hints(Settings).items() if name in record}
    for name, hint in known.items():
        if not _fits(record[name], hint):
            raise UserError(f"{where} has a {name!r} of the wrong type: {one_line(repr(record[name]), 60)}")
    everything = [record.get("options", {}), *record.get("modifiers", {}).values()]
    if not all(isinstance(options, dict) for options in everything):
        raise UserError(f"{where} has a modifier without options")
    if not all(_fits(value, str | int | float | bool | None) for options in everything for value in options.values()):
        raise UserError(f"{where} has an option that is not a plain value")
    return Settings(**{name: record[name] for name in known})


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value is of an annotated type: a plain one, a dict, or a union of these."""
    types = {get_origin(member) or member for member in (get_args(hint) if isinstance(hint, UnionType) else (hint,))}
    if float in types:
        types.add(int)
    if isinstance(value, bool):  # for Python a kind of int, for JSON not
        return bool in types
    return isinstance(value, tuple(types))


def _read_chunk(path: Path) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # no pixel is decoded
            with Image.open(path, formats=["PNG"]) as image:
                text, sheet = image.info.get(CHUNK), SHEET_CHUNK in image.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it is not a PNG picture"
        raise UserError(f"cannot read {str(path)!r}: {reason}") from error
    if sheet:
        raise UserError(f"{str(path)!r} is a contact sheet: give one of its pictures")
    if not isinstance(text, str):
        raise UserError(f"{str(path)!r} has no diffguide chunk: it was not made by diffguide, or was saved anew since")
    return text


def _quote(value: object) -> str:
    """Values with separators in quotes, as the web UI writes them and reads them back."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text
