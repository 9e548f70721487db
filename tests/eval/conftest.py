import os
import signal
import warnings
from hashlib import sha256

import pytest


@pytest.fixture(scope="session")
def tiny_plan(tiny_sd):
    """Plans of the tiny pipeline, on the CPU and without any network for features."""
    from diffguide.eval.plan import Plan, grid

    def make(guidances=("cfg", "apg"), scales=(2.0, 8.0), steps=(2,), **changes):
        settings = {"num_images": 10, "prompts": ("red apple", "green pear"), "batch_size": 4, "device": "cpu"}
        metrics = ("clipping", "saturation", "contrast")
        cells = grid(guidances, scales, steps)
        return Plan(**{"model": str(tiny_sd), "cells": cells, "metrics": metrics, **settings, **changes})

    return make


@pytest.fixture(scope="session")
def finished_run(tiny_plan, tmp_path_factory):
    """The plan and the folder of a comparison that nothing disturbed."""
    from diffguide.eval.comparison import compare

    plan, folder = tiny_plan(), tmp_path_factory.mktemp("runs") / "whole"
    compare(plan, folder)
    return plan, folder


@pytest.fixture(scope="session")
def digest():
    """The hash of every file of a run but those of the seconds."""

    def of(folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and "seconds" not in path.parts)
        return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}

    return of


@pytest.fixture
def killed():
    """Runs a function in a child process and kills it without warning; whether it was still at work."""

    def run(function, wait):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process that has threads
            child = os.fork()
        if child == 0:
            status = 1
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                function()
                status = 0
            finally:
                os._exit(status)
        wait(child)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)

    return run


@pytest.fixture
def pictures(tmp_path):
    """Writes a folder of random pictures, smooth enough to differ in their means."""
    import numpy as np
    from PIL import Image

    def write(name, count, seed=0, side=32):
        folder, random = tmp_path / name, np.random.default_rng(seed)
        folder.mkdir()
        for index in range(count):
            coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
            coarse.resize((side, side)).save(folder / f"{index:02d}.png")
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_dino(tmp_path_factory):
    """The folder of a DINOv2 with 16 features and random weights."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 224, "patch_size": 56}
    folder = tmp_path_factory.mktemp("dino") / "tiny"
    Dinov2Model(Dinov2Config(**size)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(stand_in_models):
    """The folder of a CLIP model with random weights and its tokenizer."""
    return stand_in_models / "emoji-clip"
