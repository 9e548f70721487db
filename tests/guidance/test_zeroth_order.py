"""The rank estimator against a sum over all pairs, and the search on functions whose maximum is known."""

from itertools import permutations

import pytest
import torch

from diffguide.guidance import ZerothOrderRankSearch
from diffguide.guidance.zeroth_order import rank_weights, to_shell

SIZES = [(2, 1), (2, 2), (5, 1), (5, 3), (8, 3), (8, 7), (8, 8)]


def by_pairs(points, order):
    """The paper's estimator: the mean of x_i - x_j over all pairs of which i is known to be better than j."""
    rest = [k for k in range(len(points)) if k not in order]
    pairs = [(i, j) for place, i in enumerate(order) for j in [*order[place + 1 :], *rest]]
    return sum(points[i] - points[j] for i, j in pairs) / len(pairs)


def authors_weights(m, k):
    return [*(m - 2 * t for t in range(k)), *[-k] * (m - k)]


@pytest.mark.parametrize(("m", "k"), SIZES)
def test_weights_are_the_mean_over_all_pairs(m, k):
    order = torch.randperm(m, generator=torch.Generator().manual_seed(m + k)).tolist()
    xi = torch.eye(m)
    weights = torch.tensor(rank_weights(m, k))
    assert torch.allclose(by_pairs(xi, order[:k])[order], weights, atol=1e-6)
    assert abs(weights.sum()) < 1e-6


@pytest.mark.parametrize(("m", "k"), SIZES)
def test_a_random_order_has_no_direction_but_with_the_weights_of_the_authors_code_it_has(m, k):
    def mean_weight(weights):  # over all orders, which is that over a candidate's places
        return sum(weights) / m

    assert mean_weight(rank_weights(m, k)) == pytest.approx(0, abs=1e-12)
    assert mean_weight(authors_weights(m, k)) == k / m


def test_over_all_orders_the_directions_cancel():
    total = torch.zeros(6)
    for order in permutations(range(4), 2):
        search = ZerothOrderRankSearch(torch.ones(6), 4)
        search.tell(order)
        total += search.state_dict()["directions"]
    assert torch.allclose(total, torch.zeros(6), atol=1e-5)


@pytest.mark.parametrize("order", [[2], [4, 0, 1], [3, 1, 4, 0, 2]])
def test_a_round_is_the_papers(order):
    start = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
    search = ZerothOrderRankSearch(start, 5, spread=0.3, step_size=0.8, line_steps=3, seed=7)
    xi = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    x = to_shell(start[None])[0]
    assert torch.allclose(search.ask(), to_shell(x + 0.3 * xi), atol=1e-6)
    search.tell(order)
    assert search.on_line
    g = by_pairs(xi, order)
    expected = torch.stack([x + 0.8 * g, x + 0.4 * g, x + 0.2 * g, x + 0.3 * xi[order[0]], x])
    assert torch.allclose(search.ask(), to_shell(expected), atol=1e-5)
    search.tell([1])
    assert torch.allclose(search.point, to_shell((x + 0.4 * g)[None])[0], atol=1e-5)
    assert (search.rounds, search.on_line) == (1, False)


def test_where_the_point_stays_the_best_directions_are_averaged_until_it_moves():
    search, directions = ZerothOrderRankSearch(torch.randn(20), 4, line_steps=1), []
    start = search.point.clone()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        xi = torch.randn(4, 20, generator=generator)
        search.tell([1, 2])
        directions.append(by_pairs(xi, [1, 2]))
        mean = torch.stack(directions).mean(0)
        assert torch.allclose(search.ask()[0], to_shell((start + mean)[None])[0], atol=1e-5)
        search.tell([2])
        assert torch.equal(search.point, start)
    xi = torch.randn(4, 20, generator=generator)
    search.tell([0])
    search.tell([1])  # the best perturbation
    assert torch.allclose(search.point, to_shell((start + 0.5 * xi[0])[None])[0], atol=1e-5)
    xi = torch.randn(4, 20, generator=generator)
    before = search.point
    search.tell([3])
    assert torch.allclose(search.ask()[0], to_shell((before + by_pairs(xi, [3]))[None])[0], atol=1e-5)


def best_first(scores, count):
    return scores.argsort(descending=True)[:count].tolist()


def climb(score, rounds=60, dimensions=32, top=3, **options):
    search = ZerothOrderRankSearch(torch.randn(dimensions, generator=torch.Generator().manual_seed(3)), **options)
    for _ in range(rounds):
        search.tell(best_first(score(search.ask()), top))
        search.tell(best_first(score(search.ask()), 1))
    return search.point


@pytest.mark.parametrize("top", [1, 3, 8])
def test_a_quadratic_reaches_its_maximum_from_ranks_alone(top):
    target = to_shell(torch.randn(1, 32, generator=torch.Generator().manual_seed(4)))
    found = climb(lambda points: -(points - target).square().sum(1), top=top)
    assert torch.cosine_similarity(found, target[0], dim=0) > 0.95
    # only the order counts: any rising function of the score gives the same path
    steep = climb(lambda points: torch.exp(0.1 * -(points - target).square().sum(1).double()), top=top)
    assert torch.equal(found, steep)


def test_a_random_judge_leads_nowhere():
    target = to_shell(torch.randn(1, 512, generator=torch.Generator().manual_seed(4)))
    generator = torch.Generator().manual_seed(5)
    found = climb(lambda points: torch.rand(len(points), generator=generator), dimensions=512)
    assert abs(torch.cosine_similarity(found, target[0], dim=0)) < 0.2  # 4.5 deviations of chance


def test_everything_is_on_the_shell():
    search = ZerothOrderRankSearch(torch.randn(4, 8, 8) * 3, spread=1.0)
    for order in ([0, 5, 2], [1], [3], [5], [7], [0]):
        for points in (search.ask(), search.point[None]):
            assert torch.allclose(points.flatten(1).norm(dim=1), torch.tensor(16.0))
        search.tell(order)


def test_it_goes_on_from_its_state_after_any_answer():
    start, answers = torch.randn(12), [[3, 1], [0], [2], [5], [7, 0, 1], [4], [1, 2]]
    through = ZerothOrderRankSearch(start, seed=9)
    for answer in answers:
        resumed = ZerothOrderRankSearch(torch.randn(12), seed=1)
        resumed.load_state_dict(through.state_dict())
        assert torch.equal(resumed.ask(), through.ask())
        through.tell(answer)
        resumed.tell(answer)
        assert torch.equal(resumed.ask(), through.ask())
        assert (resumed.rounds, resumed.on_line) == (through.rounds, through.on_line)


def test_a_saved_state_does_not_change_afterwards():
    search = ZerothOrderRankSearch(torch.randn(12))
    search.tell([0, 1])
    state = search.state_dict()
    directions = state["directions"].clone()
    search.tell([5])
    search.tell([2, 3])
    assert torch.equal(state["directions"], directions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_candidates_have_the_dtype_of_the_start(dtype):
    assert ZerothOrderRankSearch(torch.randn(4, 2, 2).to(dtype)).ask().dtype == dtype


def test_mistakes_are_told():
    for options in ({"candidates": 1}, {"line_steps": 0}, {"spread": 0}, {"step_size": -1}, {"spread": float("nan")}):
        with pytest.raises(ValueError, match=r"must|needs"):
            ZerothOrderRankSearch(torch.randn(4), **options)
    for start in (torch.zeros(4), torch.full((4,), float("inf"))):
        with pytest.raises(ValueError, match="finite, and not all zeros"):
            ZerothOrderRankSearch(start)
    search = ZerothOrderRankSearch(torch.randn(4))
    for order in ([], [1, 1], [8], [-1]):
        with pytest.raises(ValueError, match="different numbers from 0 to 7"):
            search.tell(order)
    for m, k in ((1, 1), (4, 0), (4, 5)):
        with pytest.raises(ValueError, match=f"cannot rank {k} of {m}"):
            rank_weights(m, k)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        search.load_state_dict(ZerothOrderRankSearch(torch.randn(5)).state_dict())
