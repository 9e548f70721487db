"""A world in which everything is known: Gaussian data, its exact denoiser, a linear decoder, and samplers by hand."""

import math
from functools import partial

import torch
from torch import Tensor

from diffguide.guidance import Guidance, Step, Trace

MEAN, VARIANCE = 0.3, 0.5
SIGMAS = [14.0, 5.0, 2.0, 0.7, 0.2, 0.0]
COLOURS = [[0.2, 0.2, 0.2, 0.2], [0.2, -0.2, 0.2, -0.2], [0.2, 0.2, -0.2, -0.2]]
"""Orthogonal, so that the gradient of a distance between colours points straight at its optimum."""


class MeanColour:
    """-|mean colour - target|^2, whose optimum is 0 and whose gradient is known."""

    name, differentiable, space, needs_prompts = "mean colour", True, "image", False

    def __init__(self, target: tuple[float, float, float] = (0.9, 0.2, 0.4)):
        self.target = target

    def __call__(self, images: Tensor, prompts: list[str] | None = None) -> Tensor:
        return -(images.mean((2, 3)) - images.new_tensor(self.target)).square().sum(1)

    def __repr__(self) -> str:
        return "MeanColour()"


def decode(x0: Tensor) -> Tensor:
    """(B, 4, h, w) -> (B, 3, 2h, 2w)."""
    images = 0.5 + torch.einsum("kc,bchw->bkhw", x0.new_tensor(COLOURS), x0)
    return images.repeat_interleave(2, 2).repeat_interleave(2, 3)


def levels(kind: str, sigma: float) -> tuple[float, float]:
    """(signal, noise) of the model input at a noise level."""
    if kind == "flow":
        return 1 / (1 + sigma), sigma / (1 + sigma)
    return (1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5


def maps(kind: str, alpha: float, s: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """`denoised` and `noise` of a Step."""
    return {
        "epsilon": ((1 / alpha, -s / alpha), (0.0, 1.0)),
        "v_prediction": ((alpha, -s), (s, alpha)),
        "flow": ((1.0, -s), (1.0, alpha)),
    }[kind]


def predict(kind: str, z: Tensor, alpha: float, s: float) -> Tensor:
    """The exact prediction: x0 given z, restated."""
    x0 = MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + s**2) * (z - alpha * MEAN)
    (a, b), _ = maps(kind, alpha, s)
    return (x0 - a * z) / b


def steps(kind: str, sigmas: list[float] = SIGMAS) -> list[Step]:
    """The Steps of one call."""
    made, state, total = [], {}, len(sigmas) - 1
    for index, (sigma, after) in enumerate(zip(sigmas, sigmas[1:])):
        alpha, s = levels(kind, sigma)
        denoised, noise = maps(kind, alpha, s)
        made.append(Step(index, total, 999.0 * s, sigma, kind, denoised, noise, state, kernel=levels(kind, after)))
        made[-1].decode, made[-1].evaluate = decode, partial(predict, kind, alpha=alpha, s=s)
    return made


def start(shape: tuple[int, ...] = (2, 4, 6, 6), seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise to begin with."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sample(
    rule: Guidance, kind: str = "epsilon", sampler: str = "lcm", z: Tensor | None = None, sigmas: list[float] = SIGMAS
) -> tuple[Tensor, Trace]:
    """The last x0 (B, ...), and the trace. The unconditional prediction is the conditional one, 0.2 lower."""
    z, trace = start() if z is None else z, Trace(repr(rule))
    for step in steps(kind, sigmas):
        cond = predict(kind, z, *levels(kind, step.sigma))
        if rule.needs_uncond(step):
            guided, measured = rule.guide(cond, cond - 0.2, z, step)
            trace.append(step, 2, len(z), measured)
        else:
            guided = rule.guide_cond(cond, z, step)
            trace.append(step, 1, len(z), None)
        (a, b), (p, q) = step.denoised, step.noise
        x0, signal, noise = a * z + b * guided, *step.kernel
        fresh = start(tuple(z.shape), 100 + step.index, z.dtype)
        z = signal * x0 + noise * (fresh if sampler == "lcm" else p * z + q * guided)
    return x0, trace


def rms(x: Tensor) -> Tensor:
    """(B,)."""
    return x.flatten(1).norm(dim=1) / math.sqrt(x[0].numel())


KINDS = ["epsilon", "v_prediction", "flow"]


def moved(rule, step, z, cond=None, uncond=None):
    """What the rule makes of a step, and the x0 of that less the x0 of the conditional prediction."""
    cond = predict(step.prediction, z, *levels(step.prediction, step.sigma)) if cond is None else cond
    guided = rule.guide_cond(cond, z, step) if uncond is None else rule.guide(cond, uncond, z, step)[0]
    return guided, step.denoised[1] * (guided.double() - cond.double())


class Wavy(MeanColour):
    """Neither linear nor quadratic, and different for every pixel."""

    def __call__(self, images, prompts=None):
        return (images * 3).sin().mean((1, 2, 3)) + images[:, 0].square().amax((1, 2)) / 10


class Kink(MeanColour):
    """The distance itself: no parabola."""

    def __call__(self, images, prompts=None):
        return -(-super().__call__(images)).sqrt()


class Latent(MeanColour):
    space = "latent"

    def __call__(self, x0, prompts=None):
        assert x0.shape[1] == 4
        return -(x0 - 1).square().mean((1, 2, 3))
