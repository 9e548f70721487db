import pytest
import torch

from diffguide.guidance.tensors import gram, inner, squared_norm, variation


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 4, 8, 8), (1, 4, 128, 128), (2, 4, 128, 128), (2, 16, 128, 128)])
def test_products_are_those_of_each_sample(shape):
    """Below and above the sizes at which they are taken in another way."""
    noise = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, generator=noise) + 0.5 for _ in range(2))
    a, b = (tensor.double().flatten(1) for tensor in (x, y))
    expected = [(left * right).sum(1) for left, right in ((a, a), (a, b), (b, b))]
    found = [*gram(x, y), squared_norm(x), inner(x, y), variation(x)]
    for value, exact in zip(found, [*expected, expected[0], expected[1], a.var(1, correction=0) * a.shape[1]]):
        assert torch.allclose(value.double().flatten(), exact, rtol=1e-5)
        assert (value * x).shape == shape
