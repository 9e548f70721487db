import numpy as np
import pytest
import scipy.linalg
import torch

from diffguide.eval.frechet import frechet_distance, frechet_from_features, shortage
from diffguide.eval.statistics import Moments
from diffguide.pipelines.errors import UserError


def features(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator) / d**0.5
    return (torch.randn(n, d, generator=generator) @ mix).relu() + 0.2 * torch.randn(n, d, generator=generator)


def statistics(x, **names):
    moments = Moments()
    moments.update(x)
    return moments.statistics(**names)


def by_scipy(a, b):
    root = scipy.linalg.sqrtm(a.sigma.numpy() @ b.sigma.numpy())
    return float((a.mu - b.mu).square().sum() + a.sigma.trace() + b.sigma.trace()) - 2 * np.trace(root).real


@pytest.mark.parametrize(("n", "m"), [(300, 400), (40, 400), (400, 40), (40, 50)])
def test_equal_to_scipys_matrix_square_root(n, m):
    x, y = features(n, 64, 0), 1.2 * features(m, 64, 1)
    a, b = statistics(x), statistics(y)
    expected = by_scipy(a, b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)
    assert frechet_from_features(x, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [30, 200])
def test_weights_are_repetitions(n):
    x, b = features(n, 64, 0), statistics(features(300, 64, 1))
    counts = torch.randint(0, 4, (3, n), generator=torch.Generator().manual_seed(2))
    values = frechet_from_features(x, b, counts)
    assert values.shape == (3,)
    for value, count in zip(values, counts):
        repeated = x.repeat_interleave(count, 0)
        assert float(value) == pytest.approx(frechet_distance(statistics(repeated), b), rel=1e-6)


def test_a_set_is_at_no_distance_from_itself():
    for n in (30, 300):
        a = statistics(features(n, 64, 0))
        assert abs(frechet_distance(a, a)) < 1e-6 * float(a.sigma.trace())


def test_one_dimension_by_hand():
    a, b = statistics(torch.tensor([[0.0], [2.0]])), statistics(torch.tensor([[1.0], [9.0]]))
    assert frechet_distance(a, b) == pytest.approx(4**2 + (2**0.5 - 32**0.5) ** 2)


def test_too_few_images_are_told():
    few, many = statistics(features(40, 64, 0)), statistics(features(100, 64, 1))
    assert "40 images for 64 features" in shortage(few, many)
    assert shortage(many, many) is None


def test_other_networks_are_refused():
    x = features(10, 4, 0)
    with pytest.raises(UserError, match=r"network differs.*one.*other"):
        frechet_distance(statistics(x, extractor="one"), statistics(x, extractor="other"))
    with pytest.raises(UserError, match="4 features"):
        frechet_distance(statistics(x), statistics(features(10, 5, 0)))
