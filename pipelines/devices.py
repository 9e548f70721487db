"""Names of devices and dtypes, for the command line and `load_pipeline`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import UserError, unknown

if TYPE_CHECKING:
    import torch

DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "float16": "float16",
    "fp16": "float16",
    "half": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}
"""Names of dtypes on the command line, and of torch's; "auto" besides."""


def check_dtype(name: str) -> str:
    """torch's name for a dtype, or "auto"; UserError for any other. Imports nothing."""
    if name not in DTYPES and name != "auto":
        raise unknown("dtype", name, [*dict.fromkeys(DTYPES.values()), "auto"])
    return DTYPES.get(name, "auto")


def check_device(name: str) -> str:
    """`name`, if it has the form of a device that pipelines run on; UserError if not. Imports nothing."""
    if not re.fullmatch(r"(auto|cpu|mps|(cuda|xpu)(:\d+)?)", name):
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:1", "mps", "xpu"])
    return name


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device that `device` names; None and "auto": CUDA where there is one, else the CPU.

    UserError: no such name, or a device that this machine has not.
    """
    import torch

    name = check_device(str(device or "auto"))
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.device(name)
    if where.type == "cpu":
        return where
    backend = getattr(torch, where.type)
    if not backend.is_available():
        raise UserError(f"device {name!r} is not available on this machine; --device cpu always is")
    if where.index is not None and where.index >= backend.device_count():
        raise UserError(f"there is no device {name!r}: this machine has {backend.device_count()} of that kind")
    return where


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device, transformer: bool) -> torch.dtype:
    """The dtype that `dtype` names. UserError: no such name.

    None and "auto": float32, but on CUDA bfloat16 for transformers, many of which overflow in float16, and float16 for
    UNets.
    """
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    name = check_dtype(dtype or "auto")
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if transformer else torch.float16
