"""Tiny pipelines with the real classes, and stand-ins for embedded models whose weights are not there."""

import os
import shutil
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers that share the cores must not each take all of them
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def tiny_tokenizer(length=20):
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=length)


def tiny_clip_config(tokenizer, width=32):
    from transformers import CLIPConfig

    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": tokenizer.model_max_length,
        "projection_dim": width,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "projection_dim": width,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)


def tiny_vae():
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        latent_channels=16,
    )


def tiny_unet(width=32):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=8,
        cross_attention_dim=width,
    )


def tiny_transformer(width=32):
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * width,
        caption_projection_dim=16,
        pooled_projection_dim=2 * width,
        pos_embed_max_size=16,
    )


def ddim(**changes):
    from diffusers import DDIMScheduler

    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return DDIMScheduler(**{**settings, "clip_sample": False, "set_alpha_to_one": False, **changes})


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory) -> Path:
    """A folder with a random StableDiffusionPipeline, 64 x 64 pixels, epsilon prediction."""
    import torch
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    pipe = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(tiny_clip_config(tokenizer).text_config),
        tokenizer=tokenizer,
        unet=tiny_unet(),
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("tiny-sd")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def stand_in_models(tmp_path_factory) -> Path:
    """A models folder in the shape of the embedded one, random weights."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler
    from transformers import CLIPModel

    from diffguide.pipelines import embedded

    torch.manual_seed(0)
    folder, tokenizer = tmp_path_factory.mktemp("models"), tiny_tokenizer()
    CLIPModel(tiny_clip_config(tokenizer)).half().save_pretrained(folder / "emoji-clip")
    tokenizer.save_pretrained(folder / "emoji-clip")
    shutil.copy(embedded.MODELS / "emoji-clip" / "preprocessor_config.json", folder / "emoji-clip")
    tiny_vae().half().save_pretrained(folder / "emoji-vae")
    tiny_unet().half().save_pretrained(folder / "emoji-sd" / "unet")
    ddim(prediction_type="v_prediction").save_pretrained(folder / "emoji-sd" / "scheduler")
    tiny_transformer().half().save_pretrained(folder / "emoji-flow" / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=1.5).save_pretrained(folder / "emoji-flow" / "scheduler")
    return folder


@pytest.fixture
def embedded(stand_in_models, monkeypatch) -> Path:
    """The embedded models are the stand-ins."""
    from diffguide.pipelines import embedded

    monkeypatch.setattr(embedded, "MODELS", stand_in_models)
    return stand_in_models


@pytest.fixture
def trained() -> Path:
    """The models that ship inside the package."""
    from diffguide.pipelines.embedded import MODELS

    return MODELS


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def copy_of(tmp_path):
    """Copies a folder, for tests that spoil it."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def diffusers_log(caplog):
    """What diffusers logs, which does not reach pytest by itself."""
    from diffusers.utils.logging import get_logger

    logger = get_logger("diffusers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def inception():
    """The file of the real weights; the test is skipped where they are not installed."""
    from diffguide.eval.inception_weights import find_inception
    from diffguide.pipelines.errors import UserError

    try:
        return find_inception()
    except UserError as missing:
        pytest.skip(str(missing))
