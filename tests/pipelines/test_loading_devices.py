"""Devices, dtypes and offloading of what is loaded."""

import pytest
import torch
from diffusers import DiffusionPipeline

from diffguide.pipelines import load_pipeline
from diffguide.pipelines.devices import check_device, check_dtype, resolve_dtype
from diffguide.pipelines.errors import UserError


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "cpu:0", "meta"])
def test_unknown_devices(device):
    with pytest.raises(UserError, match="unknown device"):
        check_device(device)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "xpu"])
def test_devices_that_this_machine_has_not(embedded, device):
    kind = device.partition(":")[0]
    if getattr(torch, kind).is_available() and device != "cuda:7":
        pytest.skip(f"{device} is available here")
    with pytest.raises(UserError, match=f"'{device}'"):
        load_pipeline("emoji-sd", device=device)


def test_offloading_needs_a_gpu(embedded):
    with pytest.raises(UserError, match="needs a GPU"):
        load_pipeline("emoji-sd", device="cpu", cpu_offload=True)


def test_dtypes():
    assert (check_dtype("half"), check_dtype("auto")) == ("float16", "auto")
    with pytest.raises(UserError, match=r"unknown dtype 'flaot32': did you mean 'float32'\?"):
        check_dtype("flaot32")
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert resolve_dtype(None, cpu, transformer=True) is torch.float32
    assert resolve_dtype("auto", cuda, transformer=True) is torch.bfloat16
    assert resolve_dtype("auto", cuda, transformer=False) is torch.float16


def test_a_device_map_is_left_as_it_is(tiny_sd, monkeypatch):
    for options in ({"device": "cpu"}, {"device": "auto", "cpu_offload": True}):
        with pytest.raises(UserError, match=r"a device_map places|needs a GPU"):
            load_pipeline(tiny_sd, device_map="balanced", **options)
    moved = []
    monkeypatch.setattr(DiffusionPipeline, "to", lambda pipe, *args, **kwargs: moved.append(args) or pipe)
    load_pipeline(tiny_sd, device_map="cpu")
    assert moved == []  # diffusers refuses it where the parts are on several devices
    load_pipeline(tiny_sd)
    assert len(moved) == 1
