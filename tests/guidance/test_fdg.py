from functools import cache

import numpy as np
import pytest
import torch
from cases import predictions, step

from diffguide.guidance import ClassifierFreeGuidance
from diffguide.guidance.fdg import FrequencyDecoupledGuidance

SIZES = [(8, 8), (16, 24), (24, 40), (13, 21), (5, 7), (33, 64), (64, 6), (40, 72)]
SCALES = [[10, 5], [10, 7, 5], [3, 12, -1]]


def power_of_two(side):
    return next(2**k for k in range(20) if 2**k >= side)


def reflect(index, side):
    return -index if index < 0 else 2 * (side - 1) - index if index >= side else index


@cache
def blur(side):
    matrix = torch.zeros(side, side, dtype=torch.float64)
    for row in range(side):
        for offset, weight in zip(range(-2, 3), (1, 4, 6, 4, 1)):
            matrix[row, reflect(row + offset, side)] += weight / 16
    return matrix


@cache
def down(side):
    """(side / 2, side): a blur, then bilinear at half the size, which is the mean of two neighbours."""
    return blur(side).view(side // 2, 2, side).mean(1)


@cache
def up(side):
    """(2 side, side): bilinear at twice the size, with the border held, then a blur."""
    matrix = torch.zeros(2 * side, side, dtype=torch.float64)
    for row in range(2 * side):
        place = (row + 0.5) / 2 - 0.5
        low = int(place // 1)
        for column, weight in ((low, low + 1 - place), (low + 1, place - low)):
            matrix[row, min(max(column, 0), side - 1)] += weight
    return blur(2 * side) @ matrix


def both(operator, image):
    return operator(image.shape[-2]) @ image @ operator(image.shape[-1]).T


def padded(image, levels):
    h, w = image.shape[-2:]
    whole = h % 2 ** (levels - 1) == 0 and w % 2 ** (levels - 1) == 0 and (power_of_two(h) == h or power_of_two(w) == w)
    rows, columns = (
        [reflect(k, side) for k in range(side if whole else power_of_two(side))] for side in image.shape[-2:]
    )
    return image[..., rows, :][..., columns]


def pyramid(image, levels):
    levels_of = [padded(image, levels)]
    for _ in range(levels - 1):
        levels_of.append(both(down, levels_of[-1]))
    return [fine - both(up, coarse) for fine, coarse in zip(levels_of, levels_of[1:])] + levels_of[-1:]


def algorithm_2(cond, uncond, scales, weights, pyramid=pyramid, up=lambda image: both(up, image)):
    """The paper's lines on (B, C, H, W), in float64, on denoised predictions."""
    guided = []
    for c, u, scale, weight in zip(*(pyramid(x, len(scales)) for x in (cond, uncond)), scales, weights):
        direction = torch.nn.functional.normalize(c, dim=[-1, -2, -3])
        parallel = ((c - u) * direction).sum((-1, -2, -3), keepdim=True) * direction
        guided.append(c + (scale - 1) * (weight * parallel + (c - u - parallel)))
    image = guided.pop()
    while guided:
        image = up(image) + guided.pop()
    return image[..., : cond.shape[-2], : cond.shape[-1]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("weights", [None, [0.5, 0.2, 0.0]])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_is_algorithm_2_on_denoised_predictions(size, scales, weights, kind):
    cond, uncond, latents = predictions((2, 3, *size), dtype=torch.float64)
    weights = weights and weights[: len(scales)]
    here = step(kind)
    a, b = here.to_space("denoised")
    denoised = [a * latents + b * x for x in (cond, uncond)]
    expected = (algorithm_2(*denoised, scales, weights or [1] * len(scales)) - a * latents) / b
    rule = FrequencyDecoupledGuidance(scales[0], scales[1:], len(scales), weights)
    guided, _ = rule.guide(cond, uncond, latents, here)
    assert torch.allclose(guided, expected, atol=1e-9)
    single, _ = rule.guide(cond.float(), uncond.float(), latents.float(), here)
    assert torch.allclose(single.double(), expected, atol=2e-4)


@pytest.mark.parametrize("size", SIZES)
def test_the_hand_written_pyramid_is_kornias(size):
    transform = pytest.importorskip("kornia.geometry.transform")
    cond, uncond, _ = predictions((2, 3, *size), dtype=torch.float64)
    ours = algorithm_2(cond, uncond, [10, 7, 5], [1, 0.5, 0])
    assert torch.allclose(
        ours,
        algorithm_2(cond, uncond, [10, 7, 5], [1, 0.5, 0], transform.build_laplacian_pyramid, transform.pyrup),
        atol=1e-9,
    )


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (1, 4, 13, 21), (2, 4, 3, 6, 7)])
@pytest.mark.parametrize("options", [{}, {"levels": 3, "low_scale": [7.5, 7.5]}, {"parallel_weights": 1}])
def test_equal_scales_are_plain_guidance(shape, options):
    batch = predictions(shape)
    guided, _ = FrequencyDecoupledGuidance(7.5, **({"low_scale": 7.5} | options)).guide(*batch, step())
    expected, _ = ClassifierFreeGuidance(7.5).guide(*batch, step())
    assert torch.allclose(guided, expected, atol=1e-5)


def test_the_high_scale_is_for_detail_and_the_low_one_for_layout():
    _, _, latents = predictions((1, 1, 32, 32))
    flat = torch.ones(1, 1, 32, 32)
    checks = (torch.arange(32).view(-1, 1) + torch.arange(32)).remainder(2).mul(2.0).sub(1).view_as(flat)
    rule = FrequencyDecoupledGuidance(10.0, 5.0)
    for cond, scale in ((flat, 5), (checks, 10)):
        guided, _ = rule.guide(cond, torch.zeros_like(cond), latents, step("sample"))
        assert torch.allclose(guided, scale * cond, atol=1e-5)


@pytest.mark.parametrize("weights", [None, 0.3])
def test_a_video_is_its_frames(weights):
    cond, uncond, latents = predictions((2, 4, 3, 10, 14))
    rule = FrequencyDecoupledGuidance(10.0, 5.0, parallel_weights=weights)
    guided, _ = rule.guide(cond, uncond, latents, step("flow"))
    if weights is None:
        for k in range(3):
            frame, _ = rule.guide(cond[:, :, k], uncond[:, :, k], latents[:, :, k], step("flow"))
            assert torch.allclose(guided[:, :, k], frame, atol=1e-5)
    else:  # one projection for all frames: a sample's norms are over all dimensions but the first
        folded, _ = rule.guide(*(x.flatten(1, 2) for x in (cond, uncond, latents)), step("flow"))
        assert torch.allclose(guided.flatten(1, 2), folded, atol=1e-5)


def test_scales_between_are_even():
    assert FrequencyDecoupledGuidance(10.0, 4.0, levels=4).scales == [10, 8, 6, 4]
    assert FrequencyDecoupledGuidance(10.0, [6, 1], levels=3).scales == [10, 6, 1]
    assert FrequencyDecoupledGuidance(10.0, 4.0, levels=3).with_scale(2.0).scales == [2, 3, 4]


def test_scales_of_one_need_no_unconditional_prediction():
    assert not FrequencyDecoupledGuidance(1.0, 1.0).needs_uncond(step())
    assert FrequencyDecoupledGuidance(1.0, 5.0).needs_uncond(step())


@pytest.mark.parametrize(("shape", "message"), [((2, 16, 64), "sequences of tokens"), ((1, 4, 8, 8), "too small")])
def test_predictions_without_the_frequencies(shape, message):
    with pytest.raises(ValueError, match=message):
        FrequencyDecoupledGuidance(10.0, 5.0, levels=4).guide(*predictions(shape), step())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 1}, "levels must be a whole number from 2"),
        ({"levels": 3, "low_scale": [5.0]}, "low_scale needs 2 numbers"),
        ({"parallel_weights": [1.0]}, "parallel_weights needs 2 numbers"),
        ({"low_scale": float("nan")}, "low_scale must be a finite number"),
        ({"low_scale": "5"}, "low_scale"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        FrequencyDecoupledGuidance(10.0, **options)


def test_a_whole_number_may_be_numpys():
    assert FrequencyDecoupledGuidance(10.0, levels=np.int64(3)).levels == 3
