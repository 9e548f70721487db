"""What a rule of one's own returns is looked at before a pipeline goes on with it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffguide.guidance import Guidance, Measurement, Step


def guided_by(rule: Guidance, cond: Tensor, uncond: Tensor, latents: Tensor, step: Step) -> tuple[Tensor, Measurement]:
    """`rule.guide`. TypeError, which says what came, for anything but a prediction (B, ...) and a Measurement."""
    answer: Any = rule.guide(cond, uncond, latents, step)
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Measurement):
        _check(rule, "guide", answer[0], cond)
        return answer
    what = f"({', '.join(map(_described, answer))})" if isinstance(answer, tuple) else _described(answer)
    raise TypeError(
        f"{type(rule).__name__}.guide() must return the guided prediction and a Measurement of it, such as "
        f"Measurement.of_tensors(cond, cond - uncond, guided), not {what}"
    )


def conditional_by(rule: Guidance, cond: Tensor, latents: Tensor, step: Step) -> Tensor:
    """`rule.guide_cond`. TypeError, which says what came, for anything but a prediction (B, ...)."""
    answer = rule.guide_cond(cond, latents, step)
    _check(rule, "guide_cond", answer, cond)
    return answer


def _check(rule: Guidance, method: str, guided: Any, cond: Tensor) -> None:
    if not isinstance(guided, Tensor) or guided.shape != cond.shape:
        raise TypeError(
            f"{type(rule).__name__}.{method}() must make a prediction of shape {tuple(cond.shape)}, "
            f"not {_described(guided)}"
        )


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
