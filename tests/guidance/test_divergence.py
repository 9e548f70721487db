import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from diffguide.guidance import DIVERGENCES

DELTAS = [1e-3, 0.05, 0.4, 1.0, 3.0, 6.0]


def integrated(name: str, delta: float, s: float) -> float:
    """The definition, by quadrature over both densities in one dimension."""
    p, q = stats.norm(0.0, s), stats.norm(delta * s, s)
    densities = {
        "kl": lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)),
        "hellinger": lambda x: (math.sqrt(p.pdf(x)) - math.sqrt(q.pdf(x))) ** 2 / 2,
        "tv": lambda x: abs(p.pdf(x) - q.pdf(x)) / 2,
        "fisher": lambda x: p.pdf(x) * ((delta * s - x) / s**2 + x / s**2) ** 2,
        "js": lambda x: sum(
            f.pdf(x) * (f.logpdf(x) - np.logaddexp(p.logpdf(x), q.logpdf(x)) + math.log(2)) / 2 for f in (p, q)
        ),
    }
    middle = delta * s / 2
    ends = (-12 * s, middle, delta * s + 12 * s)
    return sum(integrate.quad(densities[name], *part, epsabs=1e-13, epsrel=1e-10)[0] for part in zip(ends, ends[1:]))


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("s", [0.3, 1.0])
def test_the_formula_is_the_integral(name, s):
    values = DIVERGENCES[name].value(torch.tensor(DELTAS, dtype=torch.float64), s)
    assert values.tolist() == pytest.approx([integrated(name, delta, s) for delta in DELTAS], rel=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_radius_is_the_inverse(name):
    kind, s = DIVERGENCES[name], torch.tensor([[0.2], [2.0]], dtype=torch.float64)
    deltas = torch.tensor([0.01, 0.3, 1.0, 4.0], dtype=torch.float64).expand(2, 4)
    assert torch.allclose(kind.radius(kind.value(deltas, s), s), deltas, rtol=1e-6)
    assert kind.reach(0.25) == pytest.approx(float(kind.radius(torch.tensor(0.25))), rel=1e-4)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_it_grows_from_0_to_its_limit(name):
    kind = DIVERGENCES[name]
    values = kind.value(torch.linspace(0, 60, 500))
    assert values[0] == 0
    assert (values.diff() >= -1e-6).all()
    assert values.isfinite().all()
    assert kind.limit == math.inf or values[-1] == pytest.approx(kind.limit, rel=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_are_those_of_finite_differences(name):
    deltas = torch.tensor([0.2, 1.9, 2.1, 30.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(DIVERGENCES[name].value, deltas)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_single_precision_is_enough(name):
    deltas = torch.tensor([0.01, 0.3, 3.0])
    exact = DIVERGENCES[name].value(deltas.double()).float()
    assert torch.allclose(DIVERGENCES[name].value(deltas), exact, rtol=2e-4)


@pytest.mark.parametrize(
    ("name", "bound", "message"),
    [
        ("kl", 0.0, "kl, the bound on the move of a step, must be above 0, not 0.0"),
        ("kl", -1, "above 0, not -1"),
        ("fisher", math.inf, "not inf"),
        ("hellinger", 1.0, "above 0 and below 1, not 1.0"),
        ("tv", True, "not True"),
        ("js", 0.7, "above 0 and below 0.6931, not 0.7"),
        ("js", "0.1", "not '0.1'"),
    ],
)
def test_a_bound_out_of_range_is_named(name, bound, message):
    with pytest.raises(ValueError, match=message):
        DIVERGENCES[name].reach(bound)
