"""Normalized attention guidance. Chen et al., arXiv 2505.21179 (NeurIPS 2025): guidance inside attention to texts."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Guidance, Vectors
from .basis import Combination
from .checks import finite
from .step import Step
from .tensors import TINY, precise, restored


class NormalizedAttentionGuidance(Guidance):
    """Away from the negative prompt inside the model's attention to texts; no unconditional prediction is needed.

    For models in which plain guidance fails, such as those distilled to few steps. In each attention to texts, for each
    token of the latents, Z+ being what it attends to with the prompt and Z- with the negative prompt, before the output
    projection:

        Z = Z+ + (s - 1) (Z+ - Z-);  Z <- Z min(1, tau |Z+|_1 / |Z|_1);  result = alpha Z + (1 - alpha) Z+

    Where a module adds attention to an image before its output projection (IP-Adapters of UNets, Wan's image-to-video),
    Z+ and Z- both have it; the authors' code for Wan adds it afterwards. The negative prompt is that of the first step.

    With cross-attention (Stable Diffusion, SDXL, PixArt, Wan) a step costs one evaluation and a second attention to
    texts. Where a model transforms texts on their way to its attentions, as transformers do and UNets do not, each
    sampling costs one evaluation more for the negative prompt, and two where a pipeline makes its predictions in two
    calls. Where text and latents attend to one another (SD3, Flux, Qwen-Image), both texts go through the model beside
    one stream of latents: a step costs two evaluations, as that of plain guidance does, and each sampling two more
    (Z-Image: none).

    Args:
        guidance_scale: s, that of attention, not of predictions. At 1 the rule is the conditional prediction. Default
            3, the authors' for SDXL in 4 steps (their README; 5 for Flux and SD3.5, 9 for Wan).
        tau: how many times its L1 norm without guidance the guided attention may have, above 0. Default 2.5 (their
            code).
        alpha: the share of the guided attention, in [0, 1]. Default 0.5 (their code, for SDXL; 0.25 for Flux, 0.125 for
            SD3.5).

    Raises:
        ValueError: an option is not a finite number or out of range, or, in the first steps, a model in which this
            cannot be done, with the reason: Lumina and others have text and latents in one sequence.
    """

    acts_inside = True

    def __init__(self, guidance_scale: float = 3.0, tau: float = 2.5, alpha: float = 0.5):
        super().__init__(guidance_scale)
        self.tau, self.alpha = finite("tau", tau), finite("alpha", alpha)
        if self.tau <= 0:
            raise ValueError(f"tau must be above 0, not {tau!r}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, not {alpha!r}")

    def needs_uncond(self, step: Step) -> bool:
        """Whether attention needs the negative prompt: not at a scale of exactly 1."""
        return self.guidance_scale != 1

    def attend(self, positive: Tensor, negative: Tensor, step: Step) -> Tensor:
        """Extrapolation, normalisation and blending, as in the authors' code, on attention (B, tokens, channels)."""
        kept = precise(positive)
        guided = torch.lerp(precise(negative), kept, self.guidance_scale)
        own, its = (torch.linalg.vector_norm(each, 1, dim=-1, keepdim=True) for each in (kept, guided))
        shrink = (self.tau * own / its.clamp(min=TINY)).clamp(max=1)
        return restored(torch.lerp(kept, guided * shrink, self.alpha), positive)

    def combine(self, vectors: Vectors, step: Step) -> Combination:
        """TypeError: there is nothing to combine."""
        raise TypeError(
            f"{type(self).__name__} acts inside the denoiser: diffguide.pipelines.guide() attaches it there"
        )
