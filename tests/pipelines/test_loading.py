import json
import logging
import subprocess
import sys
import time

import diffusers
import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import save_file

from diffguide.pipelines import load_pipeline
from diffguide.pipelines.embedded import EMBEDDED
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.loading import model_kind

FOLDERS = {"emoji-sd": diffusers.StableDiffusionPipeline, "emoji-flow": diffusers.StableDiffusion3Pipeline}


@pytest.mark.parametrize(("name", "cls"), FOLDERS.items())
def test_embedded_models_make_pictures_of_64_pixels(embedded, name, cls):
    pipe = load_pipeline(name, device="cpu", progress_bar=False)
    assert type(pipe) is cls
    generator = torch.Generator().manual_seed(0)
    image = pipe("red apple", num_inference_steps=2, generator=generator).images[0]
    assert image.size == (64, 64)


@pytest.mark.parametrize(
    ("name", "parts"), {"emoji-sd": ["unet", "vae"], "emoji-lcm": ["unet", "vae"], "emoji-flow": ["vae"]}.items()
)
def test_convolutions_of_embedded_models_have_the_channels_last(trained, name, parts):
    pipe = load_pipeline(name, device="cpu")
    for part in parts:
        kernels = [weight for weight in pipe.components[part].parameters() if weight.ndim == 4]
        assert kernels
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)


@pytest.mark.parametrize(("name", "options"), [("emoji-sd", {}), ("emoji-flow", {"max_sequence_length": 20})])
def test_a_saved_copy_of_an_embedded_model_makes_the_same_picture(embedded, tmp_path, name, options):
    """That of the flow model has no third text encoder, which its class does not call optional."""

    def picture(pipe):
        pipe.set_progress_bar_config(disable=True)
        call = {"num_inference_steps": 2, "output_type": "np", "generator": torch.Generator().manual_seed(0)}
        return torch.from_numpy(pipe("red apple", **call, **options).images)

    pipe = load_pipeline(name, device="cpu")
    pipe.save_pretrained(tmp_path)
    torch.testing.assert_close(picture(load_pipeline(tmp_path, device="cpu")), picture(pipe), rtol=0, atol=1e-4)


def test_the_flow_model_has_one_text_tower_in_both_places_and_prompts_of_20_tokens(embedded):
    pipe = load_pipeline("emoji-flow", device="cpu")
    assert pipe.text_encoder is pipe.text_encoder_2
    assert pipe.tokenizer_max_length == 20
    embeds, _, pooled, _ = pipe.encode_prompt("red apple", None, None, device="cpu")
    clip = transformers.CLIPModel.from_pretrained(embedded / "emoji-clip", dtype=torch.float32)
    tokens = pipe.tokenizer("red apple", padding="max_length", return_tensors="pt").input_ids
    states = clip.text_model(input_ids=tokens, output_hidden_states=True)
    width = clip.config.text_config.hidden_size
    torch.testing.assert_close(embeds[:, :20, :width], states.hidden_states[-2])
    torch.testing.assert_close(embeds[:, :20, width:], states.hidden_states[-2])
    assert not embeds[:, 20:].any()
    torch.testing.assert_close(pooled[:, :width], clip.text_projection(states.pooler_output))


def test_the_flow_model_sees_as_many_states_as_in_training(embedded):
    """`examples/train_emoji/train_denoiser.py` puts L zero states behind L text states, and the pipeline 256."""
    pipe, seen = load_pipeline("emoji-flow", device="cpu", progress_bar=False), []
    pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["encoder_hidden_states"].shape[1]), with_kwargs=True
    )

    def image(**options):
        noise = torch.Generator().manual_seed(0)
        return pipe("red apple", num_inference_steps=2, generator=noise, output_type="pt", **options).images

    assert torch.equal(image(), image(max_sequence_length=pipe.tokenizer_max_length))
    assert seen == [40] * 4


def test_the_text_tower_is_that_of_the_clip_model(embedded):
    pipe = load_pipeline("emoji-sd", device="cpu")
    clip = transformers.CLIPModel.from_pretrained(embedded / "emoji-clip", dtype=torch.float32)
    tokens = pipe.tokenizer("red apple", padding="max_length", return_tensors="pt").input_ids
    expected = clip.text_model(input_ids=tokens).last_hidden_state
    torch.testing.assert_close(pipe.text_encoder(tokens).last_hidden_state, expected)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(
    ("dtype", "expected"), [("bf16", torch.bfloat16), (torch.float16, torch.float16), (None, torch.float32)]
)
def test_all_weights_are_in_one_dtype(embedded, name, dtype, expected):
    pipe = load_pipeline(name, dtype=dtype, device="cpu")
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert {weight.dtype for part in parts for weight in part.parameters()} == {expected}


def test_loading_says_nothing(stand_in_models):
    """In a process of its own: the libraries write to the standard error that they found when they were imported."""
    code = """
import pathlib, sys, warnings
warnings.simplefilter("default")
import diffusers, transformers
from diffguide.pipelines import embedded, load_pipeline
embedded.MODELS = pathlib.Path(sys.argv[1])
print("loading", flush=True), print("loading", file=sys.stderr, flush=True)
for name in ("emoji-sd", "emoji-flow"):
    load_pipeline(name, device="cpu", dtype="float16", scheduler="unipc")
"""
    done = subprocess.run([sys.executable, "-c", code, stand_in_models], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stdout == "loading\n"
    assert done.stderr.endswith("loading\n")  # importing the libraries may warn; loading a model may not


def test_the_users_logging_is_as_it_was(embedded):
    libraries = [library.utils.logging for library in (diffusers, transformers, huggingface_hub)]
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity(logging.INFO)
    try:
        load_pipeline("emoji-sd", device="cpu")
        assert [library.get_verbosity() for library in libraries] == [logging.INFO] * 3
        assert all(library.is_progress_bar_enabled() for library in libraries[:2])
    finally:
        for library, verbosity in zip(libraries, before):
            library.set_verbosity(verbosity)


def test_a_folder_loads_to_the_same_weights(tiny_sd, capfd):
    pipe = load_pipeline(tiny_sd, scheduler="dpm++-karras", device="cpu")
    assert type(pipe.scheduler) is diffusers.DPMSolverMultistepScheduler
    original = diffusers.UNet2DConditionModel.from_pretrained(tiny_sd / "unet")
    torch.testing.assert_close(dict(pipe.unet.named_parameters()), dict(original.named_parameters()))


def test_further_arguments_reach_from_pretrained_but_not_an_embedded_model(tiny_sd, embedded):
    assert load_pipeline(tiny_sd, device="cpu", unet=None).unet is None
    with pytest.raises(TypeError, match="variant"):
        load_pipeline("emoji-sd", variant="fp16")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("emoji-ds", r"unknown model 'emoji-ds': did you mean 'emoji-sd'\?"),
        ("zzz", "choose from emoji-sd, emoji-flow"),
        ("", "unknown model ''|no model_index.json"),
        ("emoji-clip", "is a CLIPModel, not a pipeline: choose from emoji-sd, emoji-flow"),
        ("./nowhere", "there is no file or folder"),
        ("/nowhere/model.safetensors", "there is no file or folder"),
        ("a/b/c", "there is no file or folder"),
        ("owner/", "neither a folder nor the name"),
        ("nobody/nothing", "'nobody/nothing': it is not in the local cache, and the hub cannot be reached"),
        ("x" * 5000, "cannot read|unknown model"),
    ],
)
def test_models_that_are_not_there(model, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_pipeline(model, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_costs_no_time_and_one_line(monkeypatch, capfd):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.model_info", _unreachable)
    began = time.perf_counter()
    with pytest.raises(UserError, match="'nobody/nothing': it is not in the local cache, and the hub cannot"):
        load_pipeline("nobody/nothing", device="cpu")
    assert time.perf_counter() - began < 5
    assert capfd.readouterr() == ("", "")


def test_a_model_that_the_hub_has_not(monkeypatch):
    class MissingError(RepositoryNotFoundError):
        def __init__(self):
            Exception.__init__(self, "404")

    def missing(*args, **kwargs):
        raise MissingError

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.model_info", missing)
    with pytest.raises(UserError, match="the hub has no model 'nobody/nothing'"):
        load_pipeline("nobody/nothing", device="cpu")


@pytest.mark.parametrize("token", ["hf_valid", True, None])
def test_a_private_model_is_asked_for_with_the_token(monkeypatch, token):
    asked = []

    def answer(name, **options):
        asked.append(options["token"])

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.model_info", answer)
    monkeypatch.setattr("diffusers.DiffusionPipeline.load_config", _unreachable)
    with pytest.raises(UserError, match="cannot load model 'owner/private'"):
        load_pipeline("owner/private", device="cpu", token=token)
    assert asked == [token]


def test_the_hub_is_not_asked_for_local_files(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.model_info", lambda *args, **kwargs: pytest.fail("asked"))
    with pytest.raises(UserError, match="cannot load model 'nobody/nothing'"):
        load_pipeline("nobody/nothing", device="cpu", local_files_only=True)


def _unreachable(*args, **kwargs):
    raise ConnectionError("Name or service not known")


def test_folders_and_files_that_are_no_pipeline(tmp_path, tiny_sd, copy_of):
    with pytest.raises(UserError, match=r"no model_index\.json"):
        load_pipeline(tmp_path)
    text = tmp_path / "model.txt"
    text.write_text("hello")
    with pytest.raises(UserError, match=r"expected a \.safetensors file"):
        load_pipeline(text)
    fake = tmp_path / "model.safetensors"
    fake.write_text("hello")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_pipeline(fake, device="cpu")
    save_file({"weight": torch.zeros(2)}, fake)
    with pytest.raises(UserError, match="holds no pipeline that is known by its tensors"):
        load_pipeline(fake, device="cpu")
    broken = copy_of(tiny_sd)
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot load model .*diffusion_pytorch_model"):
        load_pipeline(broken, device="cpu")
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "Nonsense"}))
    with pytest.raises(UserError, match="cannot load model"):
        load_pipeline(broken, device="cpu")


def test_an_installation_without_the_weights_says_so(embedded, monkeypatch, tmp_path):
    monkeypatch.setattr("diffguide.pipelines.embedded.MODELS", tmp_path)
    with pytest.raises(UserError, match="'emoji-sd' is not complete, its part 'emoji-sd' is missing: install"):
        model_kind("emoji-sd")


@pytest.mark.parametrize("name", [name for name, model in EMBEDDED.items() if model.denoiser])
def test_the_trained_models_load(trained, name, capfd):
    image = load_pipeline(name, device="cpu", progress_bar=False)("red apple", num_inference_steps=2).images[0]
    assert image.size == (64, 64)
    assert capfd.readouterr() == ("", "")
