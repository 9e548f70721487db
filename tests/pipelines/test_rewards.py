"""Rewards by name, and those of other libraries where they are installed, at random weights."""

import json
import subprocess
import sys

import pytest
import torch

from diffguide.eval.cli import main
from diffguide.guidance import ClipReward, Interval, Reward, RewardEnsemble, RewardGuidance
from diffguide.pipelines import load_reward
from diffguide.pipelines.embedded import EMBEDDED
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.rewards import ALIASES, REWARDS, check_reward, parse_reward
from diffguide.pipelines.rules import place_rewards

IMAGES = 0.2 + 0.6 * torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
PROMPTS = ["red apple", "a cat"]


def gradient_is_right(reward, images, prompts=None, step=1e-5):
    images = images.double().requires_grad_()
    [gradient] = torch.autograd.grad(reward(images, prompts).sum(), images)
    direction = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        slope = (reward(images + step * direction, prompts) - reward(images - step * direction, prompts)) / step / 2
    assert gradient.abs().max() > 0
    assert (gradient * direction).flatten(1).sum(1) == pytest.approx(slope, rel=1e-5, abs=1e-10)


def test_every_embedded_clip_is_a_reward_and_prefers_what_it_is_told(trained):
    from diffguide.eval import load_reference

    own = [name for name in EMBEDDED if name in REWARDS and (trained / name).is_dir()]
    assert "emoji-clip" in own
    assert ALIASES["clip"] == "emoji-clip"
    batches = [batch for batch, _ in zip(load_reference("emoji").batches(64), range(12))]
    images = torch.stack([batch.images[0] for batch in batches]).float() / 255
    captions = [batch.captions[0] for batch in batches]
    for name in own:
        reward = load_reward(name, device="cpu")
        assert (reward.name, reward.differentiable, reward.space) == (name, True, "image")
        assert not any(p.requires_grad for p in reward.model.parameters())
        right, wrong = reward(images, captions), reward(images, [*captions[6:], *captions[:6]])
        assert (right > wrong).float().mean() > 0.7


def test_one_model_under_all_its_names_is_one_reward(embedded):
    by_name = load_reward("clip", device="cpu")
    folder = str(embedded / "emoji-clip")
    for name in (folder, f"clip:{folder}", f"pickscore:{folder}"):
        reward = load_reward(name, device="cpu")
        assert reward.preparation == by_name.preparation
        assert torch.equal(reward(IMAGES, PROMPTS), by_name(IMAGES, PROMPTS))
    assert by_name.preparation.mean == (0.5,) * 3  # by its own file, where OpenAI's are others
    assert by_name.dtype == torch.float32
    assert load_reward("emoji-clip", device="cpu", dtype="bf16").dtype == torch.bfloat16
    gradient_is_right(load_reward("clip", device="cpu", dtype=torch.float64), IMAGES, PROMPTS)


def test_callables_by_name_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def red(images):\n    return images[:, 0].mean((1, 2))\n\nname = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part not in ("", str(tmp_path))])
    reward = load_reward("my_rewards:red")
    assert (reward.name, reward.needs_prompts) == ("red", False)
    assert torch.equal(reward(IMAGES), IMAGES[:, 0].mean((1, 2)))
    for name, message in (
        ("my_rewards:blue", "no attribute 'blue'"),
        ("no_rewards_there:blue", "No module named"),
        ("my_rewards:name", "is no reward: a reward is a callable"),
    ):
        with pytest.raises(UserError, match=message):
            load_reward(name)


MISTAKES = {
    "did you mean 'pickscore'": "pickscor",
    "did you mean 'clip'": "clp",
    "choose from clip": "qqqq",
    "has no config.json": ".",
    "neither a folder nor": "./nowhere",
    "names no weights": "hpsv2:",
    "write emoji-clip": "emoji-clip:else",
    "unknown reward 'x y'": "clip:x y",
    "cannot load 'some/where' as a CLIP model": "some/where",
    "cannot load 'yuvalkirstain/PickScore_v1' as a CLIP model": "pickscore",
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_said_in_one_line(message):
    with pytest.raises(UserError, match=message) as caught:
        load_reward(MISTAKES[message])
    assert "\n" not in str(caught.value)


def test_names_are_checked_without_torch():
    asked = "from diffguide.pipelines.rewards import *; check_reward('clip'); parse_reward('a.b:c'); import sys; "
    assert subprocess.run([sys.executable, "-c", asked + "sys.exit('torch' in sys.modules)"]).returncode == 0
    assert check_reward("hpsv2:some file") == "hpsv2:some file"
    assert [tuple(parse_reward(n)) for n in ("hpsv2:x y", "a.b:c", "clip:a/b")] == [
        ("hpsv2", "x y"),
        ("callable", "a.b:c"),
        ("model", "a/b"),
    ]


def test_rewards_are_listed(capsys):
    assert main(["list", "rewards", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rewards"]
    assert [row["name"] for row in rows] == list(REWARDS)
    assert rows[0]["aliases"] == ["clip"]
    assert {row["name"] for row in rows if not row["needs_prompts"]} == {"aesthetic"}
    assert main(["list", "rewards"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*REWARDS, "pip install open_clip_torch"))


@pytest.mark.parametrize("name", [name for name, row in REWARDS.items() if row.install])
def test_what_is_not_installed_is_named(name, monkeypatch):
    for module in ("open_clip", "ImageReward", "aesthetics_predictor"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"reward '{name}' needs a library: pip install {REWARDS[name].install}"):
        load_reward(name, device="cpu")


def test_an_ensemble_of_named_rewards(embedded):
    clip = load_reward("clip", device="cpu")
    ensemble = RewardEnsemble([clip, lambda images: images.mean((1, 2, 3))], "worst")
    images = torch.rand(6, 3, 64, 64)
    ensemble.calibrate(images, PROMPTS * 3)
    assert ensemble(images, PROMPTS * 3).shape == (6,)
    assert isinstance(ensemble.rewards[0], ClipReward)


def test_the_models_of_a_rules_rewards_come_to_its_device():
    class Rated(Reward):
        def __init__(self):
            self.model = torch.nn.Linear(2, 1)

    rated = Rated()
    ensemble = RewardEnsemble([rated, lambda images: images.mean((1, 2, 3))])
    place_rewards(Interval(RewardGuidance(ensemble), stop=0.5), "meta")
    assert all(parameter.is_meta for parameter in rated.model.parameters())


def test_hpsv2_of_a_small_model_of_its_library(tmp_path, monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    model = open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).eval()
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, tmp_path / "small.pt")
    with pytest.raises(UserError, match=r"as the checkpoint of HPSv2\.1"):
        load_reward(f"hpsv2:{tmp_path / 'none.pt'}", device="cpu")
    with pytest.raises(UserError, match="hpsv2:PATH"):
        load_reward("hpsv2", device="cpu")
    monkeypatch.setattr(
        open_clip, "create_model", lambda name: open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    )
    reward = load_reward(f"hpsv2:{tmp_path / 'small.pt'}", device="cpu")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        image, texts = model.encode_image(reward.preparation(images)), open_clip.get_tokenizer("ViT-H-14")(PROMPTS)
        wanted = torch.nn.functional.cosine_similarity(image, model.encode_text(texts))
    assert reward(images, PROMPTS) == pytest.approx(wanted, abs=1e-6)
    wide = torch.zeros(1, 3, 32, 32)
    wide[:, :, 8:24] = 0.7
    assert reward(wide[:, :, 8:24], PROMPTS[:1]) == pytest.approx(reward(wide, PROMPTS[:1]), abs=1e-6)  # black around
    reward = load_reward(f"hpsv2:{tmp_path / 'small.pt'}", device="cpu", dtype=torch.float64)
    gradient_is_right(reward, IMAGES, PROMPTS)


@pytest.mark.parametrize("kind", ["AestheticsPredictorV1", "AestheticsPredictorV2Linear", "AestheticsPredictorV2ReLU"])
def test_aesthetic_predictors_at_random_weights(kind, tmp_path):
    library = pytest.importorskip("aesthetics_predictor")
    from transformers import CLIPVisionConfig

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "projection_dim": 24, "num_hidden_layers": 1}
    config = CLIPVisionConfig(**sizes, num_attention_heads=2, image_size=32, patch_size=8)
    model = getattr(library, kind)(config).eval()
    model.save_pretrained(tmp_path)
    reward = load_reward(f"aesthetic:{tmp_path}", device="cpu")
    with torch.no_grad():
        wanted = model(pixel_values=reward.preparation(IMAGES)).logits[:, 0]
    assert reward(IMAGES) == pytest.approx(wanted, abs=1e-6)
    assert not reward.needs_prompts
    gradient_is_right(load_reward(f"aesthetic:{tmp_path}", device="cpu", dtype=torch.float64), IMAGES)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="as an aesthetic predictor"):
        load_reward(f"aesthetic:{tmp_path}", device="cpu")
