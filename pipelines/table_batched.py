"""Pipelines that evaluate both predictions in one call of their denoiser."""

from __future__ import annotations

from .layouts import Layout
from .table_stable_diffusion import STABLE_DIFFUSION
from .table_transformers import TRANSFORMERS
from .table_variance import VARIANCE

BATCHED: tuple[Layout, ...] = (*STABLE_DIFFUSION, *TRANSFORMERS, *VARIANCE)
