import pytest
import torch
from torch.overrides import TorchFunctionMode

from diffguide.guidance.tensors import gram, inner, on_device, squared_norm, variation


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_around_a_call_leaves_products_as_they_are(dtype):
    """On a GPU these samples are what it has at every size: it takes the same way as small ones here."""
    noise = torch.Generator().manual_seed(0)
    x, y = (50 * torch.randn(2, 4, 120, 120, generator=noise) for _ in range(2))  # beyond what half precision holds
    with torch.autocast("cpu", dtype):
        found = [*gram(x, y), squared_norm(x), inner(x, y), variation(x)]
    for value, exact in zip(found, [*gram(x, y), squared_norm(x), inner(x, y), variation(x)]):
        assert torch.equal(value, exact)


class Asked(TorchFunctionMode):
    """What a tensor was asked to become, in place of what it would be: this torch knows no other device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return args[1:] if function is torch.Tensor.to else function(*args, **(kwargs or {}))


def test_where_there_is_no_double_precision_it_is_single():
    wide, narrow = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float16)
    mps, cpu = torch.device("mps"), torch.device("cpu")
    with Asked():
        assert on_device(wide, mps) == (mps, torch.float32)
        assert on_device(wide, cpu) == (cpu, torch.float64)
        assert on_device(narrow, mps) == (mps, torch.float16)
