"""The registry of all tiny pipelines: what is run, by whom, and so what docs/pipelines.md may call tested."""

import importlib
from pathlib import Path

import families_flow
import families_image
import families_kandinsky
import families_ltx
import families_other
import families_sana
import families_unet
import families_unet_video
import families_video
from tiny import FAMILIES
from tiny_family import Family, seeded
from tiny_single import SINGLE
from tiny_variants import VARIANTS
from tiny_variants_video import VIDEO_VARIANTS

MODULES = (
    families_unet,
    families_unet_video,
    families_kandinsky,
    families_image,
    families_flow,
    families_sana,
    families_video,
    families_ltx,
    families_other,
)
BATCHED: tuple[Family, ...] = tuple(family for module in MODULES for family in module.FAMILIES)


def all_families() -> tuple[Family, ...]:
    """Every tiny pipeline of the tests: the tuples of families in modules named families_*."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("families_*.py"))
    tables = [value for name in names for value in vars(importlib.import_module(name)).values()]
    found = [entry for table in tables if isinstance(table, tuple) for entry in table if isinstance(entry, Family)]
    return tuple({family.name: family for family in (*FAMILIES, *VARIANTS, *VIDEO_VARIANTS, *found)}.values())


def classes_run() -> set[str]:
    """The names of the classes of all tiny pipelines, including those with a place for a guider."""
    slots = vars(importlib.import_module("tiny_slots"))
    own = {name for name in slots if name.endswith("Pipeline")}
    return own | {type(seeded(family.make)).__name__ for family in (*all_families(), *SINGLE)}
