"""A rule beside torch.compile: what is compiled, and how often. The backend counts graphs and runs them as they are."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import FAMILIES

from diffguide.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffguide.pipelines import guide

BY_NAME = {family.name: family for family in FAMILIES}


class Counting:
    """A backend."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def backend() -> Iterator[Counting]:
    torch._dynamo.reset()
    yield Counting()
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("way", ["module.compile", "torch.compile"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["sd", pytest.param("flux", marks=pytest.mark.slow)])
def test_at_most_one_graph_more_and_no_recompilation(backend: Counting, name: str, when: str, way: str) -> None:
    family, attribute = BY_NAME[name], BY_NAME[name].denoisers[0]
    native = family.run_native(family.build(), 5.0)

    def compiled(pipe: Any) -> None:
        if way == "module.compile":
            getattr(pipe, attribute).compile(backend=backend)
        else:
            setattr(pipe, attribute, torch.compile(getattr(pipe, attribute), backend=backend))

    plain = family.build()
    compiled(plain)
    family.run_native(plain, 5.0)
    without, backend.graphs = backend.graphs, 0
    assert without > 0
    torch._dynamo.reset()

    pipe = family.build()
    if when == "before":
        compiled(pipe)
    with guide(pipe, ClassifierFreeGuidance(5.0)) as guided:
        if when == "after":
            compiled(pipe)
        torch.testing.assert_close(family.run(guided), native, rtol=0, atol=1e-5)
        assert backend.graphs <= without + 1
        known = backend.graphs
        torch.testing.assert_close(family.run(guided), native, rtol=0, atol=1e-5)
        guided.guidance = AdaptiveProjectedGuidance(5.0)
        assert family.run(guided).isfinite().all()
        assert backend.graphs == known
