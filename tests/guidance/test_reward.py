"""Rewards against transformers' own pipeline, and their gradients against finite differences."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffguide.guidance import ClipReward, Reward, as_reward

PROMPTS = ["red apple", "a green pear on the table"]


@pytest.fixture(scope="module")
def clip(stand_in_models):
    from transformers import CLIPModel, CLIPTokenizer

    folder = stand_in_models / "emoji-clip"
    return CLIPModel.from_pretrained(folder, dtype=torch.float32).eval(), CLIPTokenizer.from_pretrained(folder)


def pictures(height, width, count=2):
    """Smooth ones, with edges and flat white."""
    rng = np.random.default_rng(height)
    small = [rng.integers(0, 256, (5, 7, 3), dtype=np.uint8) for _ in range(count)]
    images = [Image.fromarray(s).resize((width, height), Image.Resampling.BICUBIC) for s in small]
    for image in images:
        image.paste((255, 255, 255), (width // 3, height // 4, width, height // 2))
    return images, torch.stack([torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255 for image in images])


def by_transformers(model, tokenizer, images, prompts, **settings):
    from transformers import CLIPImageProcessor

    pixels = CLIPImageProcessor(**settings)(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        found = model(**tokenizer(prompts, padding=True, truncation=True, return_tensors="pt"), pixel_values=pixels)
    return pixels, (found.image_embeds * found.text_embeds).sum(1)


@pytest.mark.parametrize("size", [(64, 64), (160, 160), (40, 40), (96, 131), (90, 65)])
@pytest.mark.parametrize("trained_one", [False, True])
def test_the_cosine_is_that_of_transformers(clip, trained, size, trained_one):
    if trained_one:
        half = (0.5, 0.5, 0.5)
        reward = ClipReward.from_pretrained(trained / "emoji-clip", image_mean=half, image_std=half)
        settings = {"image_mean": half, "image_std": half}
    else:
        reward, settings = ClipReward(*clip), {}
    images, tensor = pictures(*size)
    pixels, wanted = by_transformers(
        reward.model, reward.tokenizer, images, PROMPTS, size={"shortest_edge": 64}, crop_size=64, **settings
    )
    off = (reward.preparation(tensor) - pixels).abs().max()
    assert off <= (1e-5 if size == (64, 64) else 1.6 / 255 / 0.26)  # it rounds to bytes after both passes
    assert reward(tensor, PROMPTS).detach() == pytest.approx(wanted, abs=1e-5 if size == (64, 64) else 5e-3)


def test_a_saved_reward_is_read_by_transformers_and_back(clip, tmp_path):
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    reward = ClipReward(*clip, image_mean=(0.1, 0.2, 0.3), image_std=(0.5, 0.6, 0.7))
    reward.save_pretrained(tmp_path)
    images, tensor = pictures(64, 64)
    back = ClipReward.from_pretrained(tmp_path)
    assert (back.name, back.preparation) == (tmp_path.name, reward.preparation)
    assert torch.equal(back(tensor, PROMPTS), reward(tensor, PROMPTS))
    processor = CLIPImageProcessor.from_pretrained(tmp_path)
    _, wanted = by_transformers(
        CLIPModel.from_pretrained(tmp_path), CLIPTokenizer.from_pretrained(tmp_path), images, PROMPTS,
        **{key: getattr(processor, key) for key in ("size", "crop_size", "image_mean", "image_std")},
    )  # fmt: skip
    assert reward(tensor, PROMPTS).detach() == pytest.approx(wanted, abs=1e-5)


def test_an_option_stands_in_place_of_what_the_file_says_and_the_rest_stays(clip, tmp_path):
    reward = ClipReward(*clip, image_mean=(0.1, 0.2, 0.3), image_std=(0.5, 0.6, 0.7))
    reward.save_pretrained(tmp_path)
    made = reward.preparation
    for options, wanted in (
        ({"crop": False}, replace(made, size=(64, 64), crop=None)),
        ({"image_mean": (0.5, 0.5, 0.5)}, replace(made, mean=(0.5, 0.5, 0.5))),
        ({"image_std": (0.4, 0.4, 0.4), "image_size": 64}, replace(made, std=(0.4, 0.4, 0.4))),
    ):
        assert ClipReward.from_pretrained(tmp_path, **options).preparation == wanted
    ClipReward(*clip, crop=False).save_pretrained(tmp_path)
    squeezed = ClipReward.from_pretrained(tmp_path).preparation
    assert ClipReward.from_pretrained(tmp_path, image_size=64).preparation == squeezed


def test_squeezed_images_and_the_older_form_of_the_file(clip, tmp_path):
    reward = ClipReward(*clip, crop=False)
    images, tensor = pictures(80, 120)
    pixels, _ = by_transformers(*clip, images, PROMPTS, size={"height": 64, "width": 64}, do_center_crop=False)
    assert (reward.preparation(tensor) - pixels).abs().max() <= 1.6 / 255 / 0.26
    reward.save_pretrained(tmp_path)
    assert ClipReward.from_pretrained(tmp_path).preparation == reward.preparation
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 64, "crop_size": 64, "do_normalize": False}))
    preparation = ClipReward.from_pretrained(tmp_path).preparation
    assert (preparation.size, preparation.crop, preparation.mean) == (64, 64, None)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match="224 pixels for a model that takes 64"):
        ClipReward.from_pretrained(tmp_path)


def test_gradients_are_those_of_finite_differences(clip, tmp_path):
    reward = ClipReward(*clip)
    reward.save_pretrained(tmp_path)
    reward = ClipReward.from_pretrained(tmp_path, dtype=torch.float64)
    for size in (64, 24):
        images = 0.2 + 0.6 * torch.rand(2, 3, size, size, dtype=torch.float64)
        compare_gradient(reward, images, PROMPTS)


def compare_gradient(reward, images, prompts, step=1e-5):
    images = images.requires_grad_()
    scores = reward(images, prompts)
    [gradient] = torch.autograd.grad(scores.sum(), images)
    assert gradient.abs().max() > 0
    for seed in range(3):
        direction = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            slope = (reward(images + step * direction, prompts) - reward(images - step * direction, prompts)) / step / 2
        assert (gradient * direction).flatten(1).sum(1) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_the_models_weights_stay_as_they_were_and_texts_are_embedded_once(clip, monkeypatch):
    model, tokenizer = clip
    before = {name: p.clone() for name, p in model.named_parameters()}
    reward, calls = ClipReward(model, tokenizer), []
    hook = model.text_model.register_forward_hook(lambda module, args, out: calls.append(len(out.pooler_output)))
    images = torch.rand(3, 3, 64, 64, requires_grad=True)
    with torch.inference_mode():  # what is kept from here must serve for gradients, too
        reward(images.detach(), ["a", "b", "a"])
    torch.autograd.grad(reward(images, ["a", "b", "c"]).sum(), images)
    hook.remove()
    assert calls == [2, 1]
    assert all(p.requires_grad and p.grad is None and p.equal(before[name]) for name, p in model.named_parameters())
    monkeypatch.setattr("diffguide.guidance.clip_reward._CACHED", 2)
    reward(images, ["d", "e", "f"])
    assert list(reward._texts) == ["e", "f"]


def test_dtype_and_device_follow_the_model_and_the_images(clip):
    reward = ClipReward(copy.deepcopy(clip[0]), clip[1])
    images = torch.rand(2, 3, 64, 64)
    single = reward(images, PROMPTS).detach()
    double = reward.to(torch.float64)(images, PROMPTS).detach()
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert double == pytest.approx(single.double(), abs=1e-5)
    half = reward.to(torch.bfloat16)(images.bfloat16(), PROMPTS).detach()
    assert half.dtype == torch.float32
    assert half == pytest.approx(single, abs=0.02)
    if torch.cuda.is_available():
        images = images.cuda()
        assert reward.to("cuda", torch.float32)(images, PROMPTS).device == images.device


def test_a_latent_reward_sees_latents_as_they_are_and_can_be_trained(clip, tmp_path):
    from transformers import CLIPModel

    torch.manual_seed(0)
    config = copy.deepcopy(clip[0].config)
    config.vision_config.num_channels, config.vision_config.image_size, config.vision_config.patch_size = 16, 8, 2
    reward = ClipReward(CLIPModel(config).eval().double(), clip[1], space="latent", trainable=True, name="proxy")
    latents = 5 * torch.randn(2, 16, 8, 8, dtype=torch.float64)
    compare_gradient(reward, latents, PROMPTS)
    tokens = reward.tokenizer(PROMPTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = reward.model(**tokens, pixel_values=latents)
    assert reward(latents, PROMPTS).detach() == pytest.approx((found.image_embeds * found.text_embeds).sum(1))
    optimizer = torch.optim.SGD(reward.model.parameters(), lr=0.5)
    before = reward(latents, PROMPTS).detach()
    (-reward(latents, PROMPTS).sum()).backward()
    assert reward.model.text_projection.weight.grad.abs().max() > 0
    optimizer.step()
    assert (reward(latents, PROMPTS) > before).all()
    reward.save_pretrained(tmp_path)
    back = ClipReward.from_pretrained(tmp_path, dtype=torch.float64)
    assert back.space == "latent"
    assert torch.equal(back(latents, PROMPTS), reward(latents, PROMPTS))
    with pytest.raises(ValueError, match=r"'proxy' takes latents \(2, 16, 8, 8\), not \(2, 16, 4, 4\)"):
        reward(latents[..., :4, :4], PROMPTS)


def test_what_is_no_clip_model_is_said_in_one_line(clip, tmp_path):
    with pytest.raises(ValueError, match="as a CLIP model: ") as caught:
        ClipReward.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    clip[0].text_model.save_pretrained(tmp_path)
    clip[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not a whole CLIP model"):
        ClipReward.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="one of image, latent"):
        ClipReward(*clip, space="pixels")


IMAGES = torch.rand(2, 3, 4, 4)


def test_functions_become_rewards():
    brightness = as_reward(lambda images: images.mean((1, 2, 3)), name="brightness")
    assert (brightness.name, brightness.needs_prompts, brightness.space) == ("brightness", False, "image")
    assert torch.equal(brightness(IMAGES), IMAGES.mean((1, 2, 3)))
    assert torch.equal(brightness(IMAGES, PROMPTS), IMAGES.mean((1, 2, 3)))
    lengths = as_reward(lambda images, prompts: [len(prompt) for prompt in prompts], differentiable=False)
    assert lengths.needs_prompts
    assert lengths(IMAGES.clone().requires_grad_(), PROMPTS).tolist() == [9.0, 25.0]
    perhaps = as_reward(lambda images, prompts=None: np.full(len(images), 0.0 if prompts is None else 1.0))
    assert (perhaps(IMAGES).tolist(), perhaps(IMAGES, PROMPTS).tolist()) == ([0, 0], [1, 1])
    module = as_reward(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 1), torch.nn.Flatten(0)))
    assert module(IMAGES).shape == (2,)
    assert as_reward(module) is module


def nan(images):
    return images.mean((1, 2, 3)) / 0 * 0


BAD = {
    "one number an image": (as_reward(lambda images: images.mean()), IMAGES, None),
    r"an image, \(2,\), not \(2, 1\)": (as_reward(lambda images: images.mean((2, 3))[:, :1]), IMAGES, None),
    "must give numbers, not str": (as_reward(lambda images: "good"), IMAGES, None),
    "not finite": (as_reward(nan), IMAGES, None),
    "needs prompts": (as_reward(lambda images, prompts: images.mean((1, 2, 3))), IMAGES, ()),
    "3 for 2 images": (as_reward(lambda images, prompts: images.mean((1, 2, 3))), IMAGES, ["a", "b", "c"]),
    "not list": (as_reward(nan), [1, 2], None),
    r"\(B, 3, H, W\), floats in \[0, 1\], not \(2, 4, 4, 4\)": (as_reward(nan), torch.rand(2, 4, 4, 4), None),
    "of torch.uint8": (as_reward(nan), (IMAGES * 255).byte(), None),
    "latents": (as_reward(nan, space="latent"), IMAGES[0], None),
    "differentiable=False": (as_reward(lambda x: x.detach().mean((1, 2, 3))), IMAGES.clone().requires_grad_(), None),
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_wrong_is_said_in_one_line(message):
    reward, images, prompts = BAD[message]
    with pytest.raises(ValueError, match=message) as caught:
        reward(images, prompts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reward", [3, "clip", Reward, lambda: 0, lambda a, b, c: 0, lambda a, *, key: 0])
def test_what_cannot_be_a_reward_is_refused(reward):
    with pytest.raises(ValueError, match="a reward is "):
        as_reward(reward)
    with pytest.raises(ValueError, match="one of image, latent"):
        as_reward(nan, space="pixels")


def test_a_class_of_ones_own_overrides_score():
    class Red(Reward):
        needs_prompts = False

        def score(self, images, prompts):
            return images[:, 0].mean((1, 2))

    assert torch.equal(Red()(IMAGES), IMAGES[:, 0].mean((1, 2)))
    with pytest.raises(TypeError, match="must override score"):
        Reward()(IMAGES, PROMPTS)
