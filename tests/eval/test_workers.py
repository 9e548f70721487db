import time

import pytest
import torch

from diffguide.eval import load_extractor, open_images, run_pass
from diffguide.eval.workers import PART, side_by_side, single_threads


@pytest.fixture
def two_threads():
    """What torch uses here is two threads; afterwards what it used before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_each_thread_is_alone_and_the_callers_setting_stays(two_threads):
    with single_threads(3) as pool:
        assert list(pool.map(lambda _: torch.get_num_threads(), range(6))) == [1] * 6
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order_and_little_is_read_ahead(threads):
    read = []

    def groups():
        for start in range(0, 40, 2):
            read.append(start)
            yield [start, start + 1]

    def work(number):
        time.sleep(0.002 * (number % 3))  # later ones are done before earlier ones
        return number * number

    for index, result in enumerate(side_by_side(work, groups(), threads)):
        assert result == [(2 * index) ** 2, (2 * index + 1) ** 2]
        assert len(read) <= index + 2 + threads
    assert index == 19


@pytest.mark.parametrize("threads", [1, 2])
def test_a_mistake_in_a_thread_and_an_early_end_stop_all(threads):
    done = []

    def work(number):
        if number == 5:
            raise ValueError("five")
        done.append(number)

    with pytest.raises(ValueError, match="five"):
        list(side_by_side(work, ([number] for number in range(1000)), threads))
    results = side_by_side(done.append, ([number] for number in range(1000)), threads)
    next(results)
    results.close()
    assert len(done) < 30


def test_features_are_those_of_one_thread_and_of_the_network_itself(two_threads, inception):
    extractor = load_extractor("inception", str(inception), device="cpu")
    images = torch.randint(0, 256, (PART + 1, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert extractor.concurrent
    expected = extractor(images)
    scale = expected.abs().max()
    for threads, size in ((2, 32), (2, 1), (1, 5)):
        torch.set_num_threads(threads)
        found = run_pass(open_images(list(images)), {"mine": extractor}, batch_size=size).features["mine"]
        assert (found - expected).abs().max() < 1e-5 * scale
        assert torch.get_num_threads() == threads
