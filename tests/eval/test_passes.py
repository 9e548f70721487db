import numpy as np
import pytest
import torch
from PIL import Image

from diffguide.eval import load_extractor, open_images, run_pass
from diffguide.eval.metric_functions import Context
from diffguide.pipelines.errors import UserError


class Means:
    """An extractor of one's own: the mean of each channel."""

    name, dim, resize, weights_hash = "means", 3, "none", "0"

    def __call__(self, images):
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        return pixels.mean((2, 3))


class Broken(Means):
    def __call__(self, images):
        features = super().__call__(images)
        features[features[:, 0] < 0.1] = torch.nan
        return features


def test_a_network_of_ones_own_sees_every_image_in_order(pictures):
    folder = pictures("a", 7)
    expected = torch.tensor(np.stack([np.asarray(Image.open(p)).mean((0, 1)) / 255 for p in sorted(folder.iterdir())]))
    seen = []
    for size in (1, 3, 64):
        done = run_pass(open_images(folder), {"mine": Means()}, ["clipping"], batch_size=size, progress=seen.append)
        torch.testing.assert_close(done.features["mine"].double(), expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(done.moments["mine"].mean, expected.mean(0), atol=1e-6, rtol=1e-6)
        assert (done.n, done.values["clipping"].shape) == (7, (7,))
    assert seen == [1] * 7 + [3, 3, 1] + [7]


def test_features_are_kept_of_those_networks_that_are_named(pictures):
    networks = {"one": Means(), "two": Means()}
    assert run_pass(open_images(pictures("a", 3)), networks, keep=["two"]).features.keys() == {"two"}
    none = run_pass(open_images(pictures("b", 3)), networks, keep=False)
    assert none.features == {}
    assert none.moments["one"].n == 3


def test_a_generator_is_read_once_and_floats_are_not_rounded():
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    done = run_pass(open_images(image for image in images), {"mine": Means()}, batch_size=2)
    torch.testing.assert_close(done.features["mine"], images.mean((2, 3)))


def test_images_of_several_sizes_are_as_one_by_one(tiny_dino):
    dino = load_extractor("dinov2", str(tiny_dino), device="cpu")
    random = torch.Generator().manual_seed(0)
    images = [torch.rand(3, side, 30, generator=random) for side in (20, 20, 31, 20)]
    done = run_pass(open_images(images, convert=True), {"dino": dino}, ["saturation"])
    expected = torch.cat([dino(image[None]) for image in images])
    torch.testing.assert_close(done.features["dino"], expected, atol=1e-5, rtol=1e-5)
    assert done.values["saturation"].shape == (4,)


def test_features_that_are_not_finite_name_the_image(pictures):
    folder = pictures("a", 3)
    Image.new("RGB", (32, 32)).save(folder / "01.png")
    with pytest.raises(UserError, match=r"means gave features that are not finite for '01\.png'"):
        run_pass(open_images(folder), {"mine": Broken()})


@pytest.mark.parametrize("count", [2, 4])
def test_prompts_and_baselines_must_be_as_many_as_images(pictures, count):
    folder, texts = pictures("a", 3), ["red apple"] * count
    for context in (Context(prompts=texts), Context(baseline=torch.rand(count, 3, 32, 32))):
        with pytest.raises(UserError, match=f"{count} (prompts|baseline) for 3 images"):
            run_pass(open_images(folder), {}, ["clipping"], context)
