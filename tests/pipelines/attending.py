"""What the tests of rules inside of attention have in common."""

import logging
from collections.abc import Iterator

import pytest
import torch
from families import all_families
from tiny_single import SINGLE
from torch import Tensor

from diffguide.guidance import NormalizedAttentionGuidance

FAMILIES = {family.name: family for family in (*all_families(), *SINGLE)}
RULE = NormalizedAttentionGuidance(5.0, tau=1.2, alpha=0.8)
ALL_NEGATIVE = NormalizedAttentionGuidance(0.0, tau=1e30, alpha=1.0)
ALL_POSITIVE = NormalizedAttentionGuidance(5.0, alpha=0.0)
NEGATIVE = "worm wheel"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nothing from diffusers below an error, to tests of the module that imports this."""
    logger = logging.getLogger("diffusers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def close(ours: Tensor, expected: Tensor) -> None:
    """AssertionError: they differ by more than rounding."""
    torch.testing.assert_close(ours, expected, rtol=0, atol=5e-6 * max(1.0, expected.abs().max().item()))
