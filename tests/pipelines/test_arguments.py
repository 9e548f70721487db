import time

import pytest

from diffguide.pipelines.arguments import check_seeds
from diffguide.pipelines.errors import UserError


def test_seeds_are_numbers_and_ranges():
    assert check_seeds("0-3, 7,5") == [0, 1, 2, 3, 7, 5]
    with pytest.raises(UserError, match="seed 2 is given twice in '0-5,4,2'"):
        check_seeds("0-5,4,2")


def test_a_seed_given_twice_among_many_is_found_at_once():
    began = time.process_time()
    with pytest.raises(UserError, match="seed 5 is given twice"):
        check_seeds("0-19998,5")
    assert time.process_time() - began < 0.5
