"""A rule of one's own that returns something else is told what, and what is wanted."""

from typing import Any

import pytest
from tiny import sd

from diffguide.guidance import ClassifierFreeGuidance, Guidance, Measurement
from diffguide.pipelines import guide


class Bare(Guidance):
    def guide(self, cond: Any, uncond: Any, latents: Any, step: Any) -> Any:
        return uncond + self.guidance_scale * (cond - uncond)


class Averaged(Guidance):
    def guide(self, cond: Any, uncond: Any, latents: Any, step: Any) -> Any:
        return cond.mean(0), Measurement.of_tensors(cond, cond - uncond, cond)


class Listed(Guidance):
    def guide(self, cond: Any, uncond: Any, latents: Any, step: Any) -> Any:
        return cond, {"norm": 1.0}


class Silent(ClassifierFreeGuidance):
    def guide_cond(self, cond: Any, latents: Any, step: Any) -> Any:
        return None


class OnTensors(Guidance):
    def combine(self, vectors: Any, step: Any) -> Any:
        return vectors.cond.tensor() * self.guidance_scale


class Added(Guidance):
    def combine(self, vectors: Any, step: Any) -> Any:
        return vectors.cond + vectors.latents.tensor()


class AddedTo(Guidance):
    def combine(self, vectors: Any, step: Any) -> Any:
        return vectors.latents.tensor() + vectors.cond


class TakenFrom(Guidance):
    def combine(self, vectors: Any, step: Any) -> Any:
        return vectors.latents.tensor() - vectors.cond


class Misspelt(Guidance):
    space = "x0"

    def combine(self, vectors: Any, step: Any) -> Any:
        return vectors.cond


@pytest.mark.parametrize(
    ("rule", "kind", "message"),
    [
        (
            Bare(5.0),
            TypeError,
            r"Bare.guide\(\) must return the guided prediction and a Measurement .* shape \(1, 4, 8, 8",
        ),
        (
            Averaged(5.0),
            TypeError,
            r"Averaged.guide\(\) must make a prediction of shape \(1, 4, 8, 8\), not .* \(4, 8, 8\)",
        ),
        (Listed(5.0), TypeError, r"Listed.guide\(\) must return .*, not \(a tensor of shape \(1, 4, 8, 8\), a dict\)"),
        (Silent(1.0), TypeError, r"Silent.guide_cond\(\) must make a prediction of shape .*, not a NoneType"),
        (OnTensors(5.0), TypeError, r"OnTensors.combine\(\) must return a combination of the vectors, not a Tensor: "),
        (
            Added(5.0),
            TypeError,
            r"not a Tensor added: a tensor \(B, ...\) comes in by vectors.basis.add\(name, tensor\)",
        ),
        (
            AddedTo(5.0),
            TypeError,
            r"not a Tensor added: a tensor \(B, ...\) comes in by vectors.basis.add\(name, tensor\)",
        ),
        (TakenFrom(5.0), TypeError, "not a Tensor added: a tensor"),
        (Misspelt(5.0), ValueError, r"""a rule's space is "prediction", "denoised" or "noise", not 'x0'"""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Guidance) else None,
)
def test_what_came_is_said(rule: Guidance, kind: type[Exception], message: str) -> None:
    pipe = sd()
    with guide(pipe, rule) as guided, pytest.raises(kind, match=message):
        guided("red apple", num_inference_steps=2, output_type="latent")
    assert pipe("red apple", num_inference_steps=1, output_type="latent").images.isfinite().all()
