import pytest
import torch
from cases import SHAPES

from diffguide.guidance import Basis


def tensors(shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_gram_is_the_inner_products(shape):
    x, y, z = tensors(shape)
    gram = Basis(x=x, y=y, z=z).gram
    for i, a in enumerate((x, y, z)):
        for j, b in enumerate((x, y, z)):
            expected = (a.double() * b.double()).flatten(1).sum(1)
            assert torch.allclose(gram[:, i, j].double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_arithmetic_is_that_of_the_tensors(shape):
    x, y, _ = tensors(shape)
    basis = Basis(x=x, y=y)
    per_sample = torch.arange(1.0, shape[0] + 1)
    column = per_sample.view(-1, *[1] * (len(shape) - 1))
    combined = 2 * basis["x"] - per_sample * (basis["y"] + basis["x"]) / 4
    expected = 2 * x - column * (y + x) / 4
    assert torch.allclose(combined.tensor(), expected, atol=1e-6)
    assert torch.allclose(combined.norm(), expected.flatten(1).norm(dim=1), rtol=1e-5)
    assert torch.allclose(combined.dot(basis["y"]), (expected * y).flatten(1).sum(1), rtol=1e-4, atol=1e-4)


def test_half_precision_is_summed_in_float32():
    x = torch.full((1, 70_000), 1.0, dtype=torch.float16)  # its square sum is beyond float16
    basis = Basis(x=x)
    assert basis.gram.dtype == torch.float32
    assert basis["x"].dot(basis["x"]).item() == 70_000


def test_float64_stays_float64():
    basis = Basis(x=torch.ones(1, 4, dtype=torch.float64))
    assert basis.gram.dtype == basis["x"].tensor().dtype == torch.float64


def test_unknown_name():
    with pytest.raises(KeyError, match="'y' is not in the basis"):
        Basis(x=torch.ones(1, 2))["y"]
