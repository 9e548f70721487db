import pytest
import torch
from cases import SHAPES

from diffguide.guidance import Basis


def tensors(shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("shape", [*SHAPES, (1, 4, 9)])
def test_products_are_the_inner_products(shape):
    named = dict(zip("xyz", tensors(shape)))
    basis = Basis(**named)
    for first, a in named.items():
        for second, b in named.items():
            expected = (a.double() * b.double()).flatten(1).sum(1)
            assert torch.allclose(basis.product(first, second).double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_arithmetic_is_that_of_the_tensors(shape):
    x, y, _ = tensors(shape)
    basis = Basis(x=x, y=y)
    per_sample = torch.arange(1.0, shape[0] + 1)
    column = per_sample.view(-1, *[1] * (len(shape) - 1))
    combined = 2 * basis["x"] - per_sample * (basis["y"] + basis["x"]) / 4 + basis["y"] / per_sample
    expected = 2 * x - column * (y + x) / 4 + y / column
    assert torch.allclose(combined.tensor(), expected, atol=1e-6)
    assert torch.allclose(combined.norm(), expected.flatten(1).norm(dim=1), rtol=1e-5)
    assert torch.allclose(combined.dot(basis["y"]), (expected * y).flatten(1).sum(1), rtol=1e-4, atol=1e-4)


def test_what_cancels_is_zero():
    x, y, _ = tensors((2, 3))
    basis = Basis(x=x, y=y)
    nothing = basis["x"] + basis["y"] - basis["x"] - basis["y"]
    assert nothing.terms == ()
    assert torch.equal(nothing.tensor(), torch.zeros(2, 3))
    assert torch.equal(nothing.norm(), torch.zeros(2))


def test_half_precision_is_summed_in_float32():
    x = torch.full((1, 70_000), 1.0, dtype=torch.float16)  # its square sum is beyond float16
    basis = Basis(x=x)
    assert basis["x"].dot(basis["x"]).dtype == torch.float32
    assert basis["x"].dot(basis["x"]).item() == 70_000


def test_float64_stays_float64():
    basis = Basis(x=torch.ones(1, 4, dtype=torch.float64))
    assert basis.product("x", "x").dtype == basis["x"].tensor().dtype == torch.float64


def test_unknown_name():
    with pytest.raises(KeyError, match="'y' is not in the basis"):
        Basis(x=torch.ones(1, 2))["y"]
