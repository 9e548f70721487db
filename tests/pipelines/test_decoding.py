"""Images from x0 inside a call, against the pictures that the pipeline itself makes of the same latents."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_parts as parts
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import UserCpuOffloadHook, remove_hook_from_module
from families_unet import FAMILIES as UNETS
from tiny import FAMILIES as TABLE
from tiny import sd, sdxl
from tiny_family import Family, seeded
from tiny_single import SINGLE, Looking
from torch import Tensor

from diffguide.pipelines import guide
from diffguide.pipelines.decoding import Decoder
from diffguide.pipelines.freezing import CHECKPOINTING

IMAGES = {
    family.name: family
    for family in (*TABLE, *SINGLE, *UNETS)
    if family.name in ("sd", "sdxl", "sd3", "flux", "qwen", "flux-control", "sana-sprint", "deepfloyd-if")
}
KL = Family("sd-kl", lambda: sd(vae=parts.kl_vae()), "epsilon")


class Decoding(Looking):
    """Keeps what `act` makes of the decoder of each step."""

    def __init__(self, act: Any):
        super().__init__()
        self.act, self.found = act, []

    def guide_cond(self, cond: Tensor, latents: Tensor, step: Any) -> Tensor:
        self.found.append(self.act(step.decode))
        return cond


def state(module: torch.nn.Module) -> list[Any]:
    parameters = [(p.requires_grad, p.grad, p.dtype) for p in module.parameters()]
    return [parameters, [{name: vars(m).get(name) for name in (*CHECKPOINTING, "training")} for m in module.modules()]]


def gradient_of(decode: Any, latents: Tensor, score: Any = lambda image: image.square().sum()) -> Tensor:
    with torch.enable_grad():
        x0 = latents.clone().requires_grad_(True)
        return torch.autograd.grad(score(decode(x0)), x0)[0]


@pytest.mark.parametrize("family", IMAGES.values(), ids=str)
def test_the_picture_of_the_pipeline_itself(family: Family) -> None:
    pipe = family.build()
    off = {} if family.name in ("lcm", "flux-control", "sana-sprint") else {family.scale: family.off}
    picture = family.run(pipe, output_type="pt", **off)
    latents = family.run(pipe, **off) if family.output == "latent" else picture
    if family.output == "pt":  # DeepFloyd hands its pixels on as they are
        picture = (picture / 2 + 0.5).clamp(0, 1)
    with guide(pipe, Decoding(lambda decode: decode(latents))) as guided:
        family.run(guided)
        for image in guided.guidance.found:
            assert image.dtype == torch.float32
            torch.testing.assert_close(image, picture, rtol=0, atol=1e-5)


def test_statistics_of_latents() -> None:
    family = IMAGES["sdxl"]
    vae = parts.kl_vae()
    vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.5, 2.0, 1.0, 1.5])
    pipe = seeded(lambda: sdxl(vae=vae))
    latents, picture = (family.run(pipe, output_type=kind, guidance_scale=1.0) for kind in ("latent", "pt"))
    with guide(pipe, Decoding(lambda decode: decode(latents))) as guided:
        family.run(guided)
    torch.testing.assert_close(guided.guidance.found[0], picture, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_gradient_and_nothing_left_behind(checkpointing: bool) -> None:
    pipe = KL.build()
    pipe.vae.decoder.conv_out.weight.data *= 0.05  # no pixel is saturated
    pipe.vae.decoder.conv_in.weight.requires_grad_(False)  # a user's own choice, which stays
    before, latents = state(pipe.vae), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def act(decode: Any) -> tuple[Tensor, Tensor]:
        gradient = gradient_of(decode, latents)
        assert any(vars(m).get("gradient_checkpointing") for m in pipe.vae.modules()) == checkpointing
        assert not any(p.requires_grad for p in pipe.vae.parameters())
        h = 1e-2 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
        ends = [decode(latents + sign * h) for sign in (1, -1)]
        slope = (ends[0].square().sum() - ends[1].square().sum()) / 2
        inside = all(((end > 0) & (end < 1)).all() for end in ends)
        assert inside  # clipped values would not follow their gradient
        torch.testing.assert_close((gradient * h).sum(), slope, rtol=1e-2, atol=1e-3)
        return gradient

    with guide(pipe, Decoding(act), checkpointing=checkpointing) as guided:
        KL.run(guided, steps=2)
    assert state(pipe.vae) == before
    plain = gradient_of(lambda x0: pipe.vae.decode(x0 / 1.5 + 0.06).sample / 2 + 0.5, latents)
    torch.testing.assert_close(guided.guidance.found[0], plain)

    def fail(decode: Any) -> None:
        gradient_of(decode, latents)
        raise RuntimeError("stop")

    with guide(pipe, Decoding(fail)) as guided, pytest.raises(RuntimeError, match="stop"):
        KL.run(guided)
    assert state(pipe.vae) == before


def test_saturated_pixels_keep_their_gradient() -> None:
    pipe, latents = KL.build(), 50 * torch.ones(1, 4, 8, 8)

    def act(decode: Any) -> Tensor:
        assert decode(latents).amax() == 1 or decode(latents).amin() == 0
        return gradient_of(decode, latents, lambda image: image.sum())

    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias += 10  # everything is far above 1
    with guide(pipe, Decoding(act)) as guided:
        KL.run(guided, steps=1)
    assert guided.guidance.found[0].any()


def test_half_precision_of_sdxl_is_decoded_in_single() -> None:
    """float16 overflows in its decoder, which stays as it is; the gradient comes in the dtype of x0."""
    family = IMAGES["sdxl"]
    pipe = seeded(lambda: sdxl(vae=parts.kl_vae()))
    pipe.vae.half()
    before, latents = state(pipe.vae), torch.randn(1, 4, 8, 8)
    seen: list[torch.dtype] = []

    def act(decode: Any) -> Tensor:
        image = decode(latents)
        with torch.no_grad():
            plain = seeded(lambda: sdxl(vae=parts.kl_vae())).vae.half().float()
            expected = plain.decode(latents / 1.5 + 0.06).sample / 2 + 0.5
        torch.testing.assert_close(image, expected.clamp(0, 1), rtol=0, atol=1e-5)
        seen.append(gradient_of(decode, latents).dtype)
        return image

    with guide(pipe, Decoding(act)) as guided:
        family.run(guided, steps=1)
    assert seen == [torch.float32]
    assert state(pipe.vae) == before


def test_preview() -> None:
    pipe, preview = KL.build(), parts.tiny_vae()
    latents, before = torch.randn(1, 4, 8, 8), state(preview)
    with guide(
        pipe, Decoding(lambda decode: (decode(latents), gradient_of(decode, latents))), preview=preview
    ) as guided:
        KL.run(guided, steps=1)
    image, gradient = guided.guidance.found[0]
    with torch.no_grad():
        torch.testing.assert_close(image, (preview.decode(latents).sample / 2 + 0.5).clamp(0, 1))
    assert gradient.any()
    assert state(preview) == before


@pytest.mark.parametrize("name", ["wan21"])
def test_frames_are_no_images(name: str) -> None:
    family, rule = next(f for f in TABLE if f.name == name), Looking()
    with guide(family.build(), rule) as guided:
        family.run(guided, steps=1)
    assert rule.steps[0].decode is None


def test_the_copy_in_single_precision_has_none_of_the_other_parts() -> None:
    """Under CPU offload the decoder's hook holds the part that was at work before it."""
    _, hook = cpu_offload_with_hook(torch.nn.Linear(2, 2), "cpu")
    vae = parts.kl_vae().half()
    cpu_offload_with_hook(vae, "cpu", prev_module_hook=hook)
    pipe = sdxl(vae=parts.kl_vae())
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    twin = Decoder(pipe)._in_float32(vae)
    assert "_hf_hook" in vars(vae)
    assert "_hf_hook" not in vars(twin)
    expected = copy.deepcopy(remove_hook_from_module(vae)).float().decode(latents, return_dict=False)[0]
    assert torch.equal(twin.decode(latents, return_dict=False)[0], expected)
    cpu_offload(vae, "cpu")  # one layer at a time, its weights elsewhere
    assert all(parameter.is_meta for parameter in vae.parameters())
    found = Decoder(pipe)._in_float32(vae).decode(latents, return_dict=False)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)  # which come in half precision


def test_under_offloading_the_decoder_does_not_send_the_denoiser_away() -> None:
    """Whose backward pass may come after, and which the next step needs."""
    sent = []
    pipe, denoiser = KL.build(), torch.nn.Linear(2, 2, device="meta")  # one that is on another device than the CPU
    hook = UserCpuOffloadHook(denoiser, SimpleNamespace(init_hook=sent.append))
    cpu_offload_with_hook(pipe.vae, "cpu", prev_module_hook=hook)
    rule = Decoding(lambda decode: gradient_of(decode, torch.zeros(2, 4, 8, 8)))
    with guide(pipe, rule) as guided:
        KL.run(guided, steps=2)
        assert len(rule.found) == 2
        assert not sent
    pipe.vae.decode(torch.zeros(1, 4, 8, 8))
    assert sent == [denoiser]
