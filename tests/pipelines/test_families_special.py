"""What is special in single families: third axes, further passes, scales per frame or step, x0 where a sign flips."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import KandinskyV22CombinedPipeline
from families import BATCHED
from families_ltx2 import SOUND
from tiny import FAMILIES
from tiny_family import Family
from tiny_variants_video import VIDEO_VARIANTS, wan_image_to_video
from torch import Tensor

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide
from diffguide.pipelines.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")
BY_NAME = {family.name: family for family in (*FAMILIES, *BATCHED)}
WAN_VIDEO = next(family for family in VIDEO_VARIANTS if family.name == "wan-image-to-video")
FIRST_GIVEN = (
    BY_NAME["ltx-image-to-video"],
    replace(WAN_VIDEO, name="wan-first-frame", make=lambda: wan_image_to_video(4, expand_timesteps=True)),
)


def same(family: Family, rule: Any, scale: float, **call: Any) -> None:
    """The rule in a pipeline, and the pipeline's own guidance at `scale`, both called with `call`."""
    pipe = family.build()
    native = family.run_native(pipe, scale, **call)
    with guide(pipe, rule) as guided:
        ours = family.run(guided, **call)
    torch.testing.assert_close(ours, native, rtol=0, atol=1e-5 * max(1.0, native.abs().max().item()))


@pytest.mark.parametrize("name", ["sd-pix2pix", "sdxl-pix2pix"])
def test_image_axis_keeps_its_own_scale(name: str) -> None:
    same(BY_NAME[name], ClassifierFreeGuidance(5.0), 5.0, image_guidance_scale=1.7)


def test_text_axis_is_what_a_rule_sees() -> None:
    """A rule gets the prediction with text and image, and that with the image alone."""
    family = BY_NAME["sd-pix2pix"]
    pipe = family.build()
    seen: list[Tensor] = []
    hook = pipe.unet.register_forward_hook(lambda module, args, output: seen.append(output[0].clone()))
    rule = Recording(5.0)
    with guide(pipe, rule) as guided:
        family.run(guided, image_guidance_scale=1.7, steps=1)
    hook.remove()
    text, image, neither = seen[0].chunk(3)
    assert torch.equal(rule.seen[0][0], text)
    assert torch.equal(rule.seen[0][1], image)
    assert not torch.equal(image, neither)


class Recording(ClassifierFreeGuidance):
    """Keeps what it was given."""

    def __init__(self, guidance_scale: float):
        super().__init__(guidance_scale)
        self.seen: list[tuple[Tensor, Tensor, Tensor, Any]] = []

    def guide(self, cond: Tensor, uncond: Tensor, latents: Tensor, step: Any) -> Any:
        self.seen.append((cond.clone(), uncond.clone(), latents.clone(), step))
        return super().guide(cond, uncond, latents, step)


@pytest.mark.parametrize("family", FIRST_GIVEN, ids=str)
def test_a_given_first_frame_is_nothing_to_a_rule(family: Family) -> None:
    """Of packed latents (B, frames * 64, C), or of (B, C, frames, H, W), which the callback sees after each step."""
    after: list[Tensor] = []

    def keep(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        after.append(tensors["latents"].clone())
        return tensors

    same(family, ClassifierFreeGuidance(5.0), 5.0)
    rule = Recording(5.0)
    with guide(family.build(), rule) as guided:
        family.run(guided, callback_on_step_end=keep)
        for (cond, uncond, latents, _), expected in zip(rule.seen[1:], after):
            assert cond.shape == uncond.shape == latents.shape
            assert torch.equal(latents, expected[:, 64:] if expected.ndim == 3 else expected[:, :, 1:])
        guided.guidance = AdaptiveProjectedGuidance(5.0)
        assert family.run(guided).isfinite().all()


def test_skip_layer_guidance_stays_relative_to_the_conditional_prediction() -> None:
    skipping = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.8}
    same(BY_NAME["sd3"], ClassifierFreeGuidance(5.0), 5.0, **skipping)
    same(BY_NAME["sd3"], ClassifierFreeGuidance(5.0), 5.0, prompts=2, images=2, **skipping)
    with guide(BY_NAME["sd3"].build(), ClassifierFreeGuidance(5.0)) as guided:
        BY_NAME["sd3"].run(guided, **skipping)
        assert [record.evaluations for record in guided.trace] == [2, 3, 3, 3]


@pytest.mark.parametrize("smallest", [1.0, 2.0])
def test_scale_per_frame(smallest: float) -> None:
    same(BY_NAME["svd"], ClassifierFreeGuidance(5.0), 5.0, min_guidance_scale=smallest)


def test_guidance_that_the_pipeline_truncates() -> None:
    family = BY_NAME["z-image"]
    same(family, ClassifierFreeGuidance(5.0), 4.0, cfg_truncation=0.2)
    same(family, ClassifierFreeGuidance(5.0), 4.0, cfg_truncation=0.2, prompts=2, images=2)
    with guide(family.build(), AdaptiveProjectedGuidance(5.0)) as guided:
        family.run(guided, cfg_truncation=0.2)
        assert [record.evaluations for record in guided.trace] == [2, 2, 1, 1]
        assert [record.decision for record in guided.trace][2:] == [["conditional"]] * 2


X0 = ["auraflow", "z-image", "sana", "hidream", "lumina", "prx", "mochi", "cogview3-plus", "svd", "sd3"]


@pytest.mark.parametrize("name", X0)
def test_x0_of_the_last_step_is_the_result(name: str) -> None:
    """A first-order solver ends where x0 is: the scheduler's own, against a z + b prediction."""
    family = BY_NAME[name]
    rule = Recording(5.0)
    with guide(family.build(), rule) as guided:
        result = family.run(guided, **({"min_guidance_scale": 5.0} if name == "svd" else {}))
    cond, uncond, latents, step = rule.seen[-1]
    a, b = step.denoised
    x0 = a * latents + b * (uncond + 5.0 * (cond - uncond))
    if name == "z-image":
        x0 = x0.squeeze(2)
    result = result[:, : x0.shape[1]]  # Lumina guides three of its channels
    torch.testing.assert_close(x0, result, rtol=0, atol=1e-4 * max(1.0, result.abs().max().item()))


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_other_pipeline_inside_a_guided_call(name: str) -> None:
    """Another pipeline on the same denoiser, called by the user's callback, is left alone, and leaves alone."""
    family = BY_NAME[name]
    pipe, other = family.build(), family.build()
    for attribute in family.denoisers:
        setattr(other, attribute, getattr(pipe, attribute))
    inner: list[Tensor] = []

    def callback(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        inner.append(family.run_native(other, 3.0))
        return tensors

    expected = family.run_native(other, 3.0)
    with guide(pipe, AdaptiveProjectedGuidance(5.0)) as guided:
        plain = family.run(guided)
        assert torch.equal(family.run(guided, callback_on_step_end=callback), plain)
    assert len(inner) == 4
    assert all(torch.equal(each, expected) for each in inner)


def test_pipeline_of_several_pipelines_says_which_to_guide() -> None:
    family = BY_NAME["kandinsky22"]
    parts = family.build().components
    priors = BY_NAME["kandinsky22-prior"].build().components
    combined = KandinskyV22CombinedPipeline(**parts, **{f"prior_{name}": part for name, part in priors.items()})
    with pytest.raises(UserError, match="guide the one you mean, such as its `decoder_pipe`"):
        guide(combined, ClassifierFreeGuidance(5.0))
    with guide(combined.decoder_pipe, ClassifierFreeGuidance(5.0)) as guided:
        options = {"num_inference_steps": 2, "prior_num_inference_steps": 2, "guidance_scale": 5.0}
        combined("dog", height=16, width=16, output_type="latent", **options)
        assert len(guided.trace) == 2


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("family", SOUND, ids=str)
def test_sound_and_video(family: Family, prompts: int) -> None:
    """Two outputs at one scale, without and with the pipeline's own further passes, whose scales still count."""
    pipe = family.build()
    native, off = (family.run(pipe, prompts, guidance_scale=scale, audio_guidance_scale=scale) for scale in (5.0, 1.0))
    assert (native - off).abs().max() > 1e-2
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        torch.testing.assert_close(family.run(guided, prompts), native, rtol=0, atol=1e-5)
        guided.guidance = ClassifierFreeGuidance(1.0)
        torch.testing.assert_close(family.run(guided, prompts), off, rtol=0, atol=1e-5)
        assert {record.evaluations for record in guided.trace} == {3 if "further" in family.name else 1}
        guided.guidance = AdaptiveProjectedGuidance(5.0)
        assert (family.run(guided, prompts) - native).abs().max() > 1e-3


def test_a_scale_that_is_changed_on_the_way_is_warned_of() -> None:
    def lower(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        pipe._guidance_scale = 5.0 - index
        return {}

    for name, options in (("sd", {"callback_on_step_end": lower}), ("cogvideox", {"use_dynamic_cfg": True})):
        family = BY_NAME[name]
        with guide(family.build(), ClassifierFreeGuidance(5.0)) as guided:
            plain = family.run(guided)
            with pytest.warns(UserWarning, match="is changed on the way") as warned:
                assert torch.equal(family.run(guided, **options), plain)
            assert len(warned) == 1
