"""A rule beside adapters of the denoiser: LoRA and IP-Adapter."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    StableDiffusionPipeline,
)
from tiny import FAMILIES
from torch import Tensor

from diffguide.guidance import ClassifierFreeGuidance, Interval
from diffguide.pipelines import guide

SD = next(family for family in FAMILIES if family.name == "sd")


def adapter(pipe: Any, folder: Path) -> Path:
    """A folder with a random LoRA for this pipeline's denoiser."""
    peft = pytest.importorskip("peft")
    other = copy.deepcopy(pipe.unet)
    other.add_adapter(peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    layers = peft.get_peft_model_state_dict(other)
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    return folder


def test_lora_loaded_scaled_fused_and_unloaded(tmp_path: Path) -> None:
    pipe = SD.build()
    folder, plain = adapter(pipe, tmp_path), SD.run_native(pipe, 5.0)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        pipe.load_lora_weights(folder)
        loaded, half = SD.run(guided), SD.run(guided, cross_attention_kwargs={"scale": 0.5})
        pipe.fuse_lora()
        fused = SD.run(guided)
        pipe.unfuse_lora()
        pipe.unload_lora_weights()
        torch.testing.assert_close(SD.run(guided), plain, rtol=0, atol=1e-4)  # unfusing rounds
    pipe.load_lora_weights(folder)
    torch.testing.assert_close(loaded, SD.run_native(pipe, 5.0), rtol=0, atol=1e-4)
    native_half = SD.run_native(pipe, 5.0, cross_attention_kwargs={"scale": 0.5})
    torch.testing.assert_close(half, native_half, rtol=0, atol=1e-4)
    pipe.fuse_lora()
    torch.testing.assert_close(fused, SD.run_native(pipe, 5.0), rtol=0, atol=1e-4)
    assert (loaded - plain).abs().max() > 1e-2
    assert (loaded - half).abs().max() > 1e-2


def ip_adapter(unet: Any) -> dict[str, Any]:
    """Random weights of an adapter that turns one image embedding into four tokens, as they lie in its file."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / 4

    projection = {
        "proj.weight": random(64, 8),
        "proj.bias": random(64),
        "norm.weight": torch.ones(16),
        "norm.bias": torch.zeros(16),
    }
    attention = {}
    for k, name in enumerate(name for name in unet.attn_processors if "attn2" in name):
        width = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        attention |= {f"{1 + 2 * k}.to_{kind}_ip.weight": random(width, 16) for kind in "kv"}
    return {"image_proj": projection, "ip_adapter": attention}


@pytest.mark.parametrize("scale", [5.0, 1.0])
def test_ip_adapter(scale: float) -> None:
    pipe = SD.build()
    plain = SD.run_native(pipe, scale)
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)], low_cpu_mem_usage=False)
    embedding = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(1))
    both = {"ip_adapter_image_embeds": [torch.cat([torch.zeros_like(embedding), embedding])]}
    alone = {"ip_adapter_image_embeds": [embedding]}
    native = SD.run_native(pipe, scale, **(both if scale > 1 else alone))
    assert (native - plain).abs().max() > 1e-2
    with guide(pipe, ClassifierFreeGuidance(scale)) as guided:
        ours = SD.run(guided, **both)
        assert guided.trace.evaluations == (8 if scale > 1 else 4)
    torch.testing.assert_close(ours, native, rtol=0, atol=1e-5)


@pytest.mark.parametrize("listed", [False, True])
def test_masks_of_two_ip_adapters(listed: bool) -> None:
    """As many as a batch of one picture has rows, which they are not."""
    pipe = SD.build()
    weights = [ip_adapter(pipe.unet), ip_adapter(pipe.unet)]
    pipe.unet._load_ip_adapter_weights(weights, low_cpu_mem_usage=False)
    embedding = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(1))
    both = torch.cat([torch.zeros_like(embedding), embedding])
    masks = torch.zeros(2, 1, 32, 32)
    masks[0, ..., :16], masks[1, ..., 16:] = 1, 1
    given: Any = {"ip_adapter_masks": [masks[:1], masks[1:]] if listed else masks}
    options = {"ip_adapter_image_embeds": [both, both], "cross_attention_kwargs": given}
    native = SD.run_native(pipe, 5.0, **options)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        torch.testing.assert_close(SD.run(guided, **options), native, rtol=0, atol=1e-5)
        guided.guidance = Interval(ClassifierFreeGuidance(5.0), stop=0.5)
        assert SD.run(guided, **options).isfinite().all()
        assert guided.trace.evaluations == 6
