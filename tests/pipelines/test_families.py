"""Every batched family of the table on a tiny pipeline with the real classes, against the pipeline's own guidance."""

import logging
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from families import BATCHED
from packaging.version import Version
from test_parity import PLAIN_APG, assert_clean
from tiny_family import Family
from torch import Tensor

from diffguide.guidance import (
    AdaptiveGuidance,
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    RatioAwareAdaptiveGuidance,
)
from diffguide.pipelines import guide
from diffguide.pipelines.errors import UserError

# Deprecated pipelines, and diffusers' own use of numpy, torch and of its own classes, speak up; none of it is ours.
pytestmark = pytest.mark.filterwarnings("ignore")

ALL_FAMILIES = Version("0.42")  # the first diffusers that has all of them


@pytest.fixture(params=BATCHED, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture
def pipe(family: Family) -> Iterator[Any]:
    logger = logging.getLogger("diffusers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        pipe = built(family)
        yield pipe
        for module in family.modules(pipe):
            assert_clean(module)
    finally:
        logger.setLevel(before)


def built(family: Family) -> Any:
    """The pipeline; skips what an older diffusers does not have."""
    try:
        return family.build()
    except (ImportError, AttributeError) as error:
        if Version(diffusers.__version__) >= ALL_FAMILIES:
            raise
        if isinstance(error, AttributeError) and "module diffusers has no attribute" not in str(error):
            raise
        pytest.skip(str(error).strip().splitlines()[0])


def same(ours: Tensor, native: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, native, rtol=0, atol=tolerance * max(1.0, native.abs().max().item()))


def test_against_the_pipeline_itself(family: Family, pipe: Any) -> None:
    """All at once, since building and running cost more than looking: parity, the saved pass, other rules, removal."""
    native, off = family.run_native(pipe, 5.0), family.run_native(pipe, family.off)
    assert (native - off).abs().max() > 1e-3  # or the comparison would say nothing
    apg = AdaptiveProjectedGuidance(5.0)
    with guide(pipe, family.native(5.0)) as guided:
        same(family.run(guided), native)
        evaluations = {record.evaluations for record in guided.trace}
        guided.guidance = ClassifierFreeGuidance(1.0)
        same(family.run(guided), off)
        once = {record.evaluations for record in guided.trace}
        assert (once, evaluations) in (({1}, {2}), ({3}, {3}))  # of three predictions none can be left out
        guided.guidance = ClassifierFreeGuidance(5.0)
        plain = family.run(guided)
        guided.guidance = RatioAwareAdaptiveGuidance(5.0)
        raag = family.run(guided)
        assert raag.isfinite().all()
        assert (raag - plain).abs().max() > 1e-4
        guided.guidance = apg
        if family.prediction == "other":
            with pytest.raises((UserError, ValueError), match=r"gives no way from its .* to the denoised space"):
                family.run(guided)
        else:
            default = family.run(guided)
            assert default.isfinite().all()
            assert (default - plain).abs().max() > 1e-4
            assert torch.equal(family.run(guided), default)
            guided.guidance = AdaptiveProjectedGuidance(5.0, **PLAIN_APG)
            same(family.run(guided), plain, 5e-5)
    assert torch.equal(family.run_native(pipe, 5.0), native)


def test_batch(family: Family, pipe: Any) -> None:
    if family.name == "cosmos2.5-predict" and diffusers.__version__.startswith("0.37."):
        pytest.skip("diffusers 0.37 takes one prompt with a picture")
    prompts, images = family.batch
    native = family.run_native(pipe, 5.0, prompts=prompts, images=images)
    with guide(pipe, family.native(5.0)) as guided:
        same(family.run(guided, prompts=prompts, images=images), native)


def test_adaptive_guidance_after_its_first_step(family: Family, pipe: Any) -> None:
    """Every step but the first left out, against a callback that turns the rule's scale to 1 after the first."""
    if family.prediction == "other":
        pytest.skip("no noise prediction to compare")
    with guide(pipe, AdaptiveGuidance(5.0, threshold=-1.0)) as guided:
        ours = family.run(guided)
        evaluations = [record.evaluations for record in guided.trace]
        assert evaluations[0] >= 2
        assert set(evaluations[1:]) in ({1}, {3})
        guided.guidance = FirstStep(5.0)
        same(ours, family.run(guided))


class FirstStep(ClassifierFreeGuidance):
    """Plain guidance at the first evaluation, both predictions but only the conditional one used at the others."""

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Any) -> Any:
        guided, measured = super().guide(cond, uncond, latents, step)
        return (guided if step.index == 0 else cond), measured
