"""Pixels, kernels, manifolds and text against other libraries and hand-written loops."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from diffguide.eval import evaluate_images
from diffguide.eval.kernels import _mmd_each, _mmd_from_whole, cmmd, inception_score, kid
from diffguide.eval.manifold import precision_recall
from diffguide.eval.metric_functions import Context
from diffguide.eval.metrics import METRICS
from diffguide.eval.pixels import clipping, contrast, saturation
from diffguide.pipelines.errors import UserError


@pytest.fixture
def images():
    return torch.randint(0, 256, (3, 3, 9, 7), generator=torch.Generator().manual_seed(0)).float() / 255


def test_saturation_is_that_of_colorsys(images):
    images[0, :, 0, 0] = 0  # black
    expected = [np.mean([colorsys.rgb_to_hsv(*p)[1] for p in image.flatten(1).T.tolist()]) for image in images]
    torch.testing.assert_close(saturation(images).double(), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_contrast_is_that_of_pillows_luma(images):
    pixels = images.mul(255).byte().permute(0, 2, 3, 1).numpy()
    expected = [np.asarray(Image.fromarray(p).convert("L"), float).std() / 255 for p in pixels]
    np.testing.assert_allclose(contrast(images).numpy(), expected, atol=0.004)  # Pillow rounds to 8 bits
    assert contrast(torch.full((1, 3, 4, 4), 0.3)).item() == pytest.approx(0, abs=1e-6)
    half = torch.cat([torch.zeros(1, 3, 4, 2), torch.ones(1, 3, 4, 2)], 3)
    assert contrast(half).item() == pytest.approx(0.5)


def test_clipping_counts_channel_values_at_the_ends():
    images = torch.full((2, 3, 2, 2), 0.5)
    images[1, 0, 0, 0], images[1, 1, 1, 1], images[1, 2, 0, 1] = 0, 1, 254 / 255
    assert clipping(images).tolist() == [0, pytest.approx(2 / 12)]


def sets(n=60, m=80, d=16):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(n, d, generator=generator), 0.3 + torch.randn(m, d, generator=generator)
    return torch.cat([x, x[:2]]), y  # with duplicates


def test_precision_and_recall_are_torch_fidelitys():
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    x, y = sets()
    expected = prc.calculate_precision_recall_full(x.double(), y.double(), 3, 10000)
    for block in (1, 7, 4096):
        assert precision_recall(x, y, block=block) == pytest.approx(expected)
    assert 0 < expected[0] < 1


@pytest.mark.parametrize("count", [5, 40])
def test_equal_images_are_at_no_distance(count):
    """Below and above the number of rows at which `torch.cdist` changes its formula; a model that makes one image."""
    generator = torch.Generator().manual_seed(0)
    one = 20 * torch.rand(1, 64, generator=generator)
    reference = torch.cat([one.expand(10, -1), 20 * torch.rand(50, 64, generator=generator)])
    assert precision_recall(one.expand(count, -1), reference) == (1.0, 10 / 60)


def test_precision_and_recall_by_hand():
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert precision_recall(torch.tensor([[-1.0], [9.0], [2.5], [20.0]]), line, k=1) == (0.5, 1.0)
    with pytest.raises(UserError, match="more than 3 images on both sides, not 2"):
        precision_recall(line[:2], line)


@pytest.mark.parametrize("size", [8, 50])  # each entry of the kernel when it is asked for, or all of them once
def test_kid_is_torch_fidelitys(size):
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = sets()
    options = {"kid_subsets": 20, "kid_subset_size": size, "verbose": False}
    expected = metric.kid_features_to_metric(x.double(), y.double(), **options)
    assert (3 * 20 * size**2 > len(x) ** 2 + len(x) * len(y) + len(y) ** 2) == (size == 50)
    assert kid(x, y, 20, size) == pytest.approx(tuple(expected.values()), rel=1e-9)


def test_kid_of_all_there_is_has_no_deviation():
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    assert kid(x, x + 1)[1] is None
    assert kid(x, x[:30] + 1)[1] > 0


def test_kid_from_the_whole_kernel_is_that_of_each_subset():
    x, y = (side.double() for side in sets())
    i, j = (torch.stack([torch.randperm(len(side))[:50] for _ in range(4)]) for side in (x, y))
    each = _mmd_each(x, y, i, j)
    for block in (7, 1024):
        assert _mmd_from_whole(x, y, i, j, block) == pytest.approx(each.numpy(), rel=1e-9)


def test_inception_score_is_torch_fidelitys():
    metric = pytest.importorskip("torch_fidelity.metric_isc")
    logits = torch.randn(57, 11, generator=torch.Generator().manual_seed(0))
    expected = metric.isc_features_to_metric(logits)
    assert inception_score(logits) == pytest.approx(tuple(expected.values()), rel=1e-9)
    with pytest.raises(UserError, match="needs 10 images at least, not 4"):
        inception_score(logits[:4])


def test_cmmd_is_the_double_sum():
    x, y = sets(7, 5)
    unit = [[row / np.linalg.norm(row) for row in side.double().numpy()] for side in (x, y)]

    def mean(a, b):
        return np.mean([np.exp(-np.sum((p - q) ** 2) / 200) for p in a for q in b])

    expected = 1000 * (mean(unit[0], unit[0]) + mean(unit[1], unit[1]) - 2 * mean(*unit))
    assert cmmd(x, y, block=3) == pytest.approx(expected, rel=1e-9)


def test_ssim_is_torchmetrics_class(images):
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    images = images.repeat(1, 1, 3, 3)
    other = (images + 0.1 * torch.rand(images.shape, generator=torch.Generator().manual_seed(3))).clamp(0, 1)
    values = METRICS["ssim"].compute(images, Context(baseline=other))
    expected = [StructuralSimilarityIndexMeasure(data_range=1.0)(i[None], o[None]) for i, o in zip(images, other)]
    torch.testing.assert_close(values, torch.stack(expected))
    assert METRICS["ssim"].compute(images[:1], Context(baseline=images[:1])).tolist() == [pytest.approx(1)]


def test_clip_score_is_transformers_own_cosine(trained, images):
    from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    from diffguide.eval.features import load_extractor

    images = torch.nn.functional.interpolate(images, (64, 64))
    images, prompts = images.mul(255).round().div(255), ["red apple", "grinning face", "a very " + "long " * 40]
    folder = trained / "emoji-clip"
    processor = CLIPProcessor(
        CLIPImageProcessor(do_resize=False, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        CLIPTokenizer.from_pretrained(folder),
    )
    model = CLIPModel.from_pretrained(folder).float().eval()
    context = Context(prompts=prompts[:2], clip=load_extractor("clip", device="cpu"))
    values = METRICS["clip_score"].compute(images[:2], context)
    pictures = [Image.fromarray(image.mul(255).round().byte().permute(1, 2, 0).numpy()) for image in images[:2]]
    inputs = processor(text=prompts[:2], images=pictures, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = 100 * (model(**inputs).logits_per_image / model.logit_scale.exp()).diagonal()
    torch.testing.assert_close(values, expected.clamp(min=0).detach(), atol=2e-3, rtol=1e-4)
    assert context.clip.embed_text(prompts).shape == (3, 256)  # what is too long is cut off


def test_a_reward_is_anything_that_can_be_one():
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for reward in (lambda images: images.mean((1, 2, 3)), lambda images: [float(image.mean()) for image in images]):
        found = evaluate_images(images, metrics=["reward"], reward=reward)
        assert found["reward"] == pytest.approx(float(images.mean()), abs=1e-5)
    with pytest.raises(UserError, match="a reward is a callable"):
        evaluate_images(images, metrics=["reward"], reward=3)
