import pytest

from diffguide.eval.effort import interpolate, match_effective_scale, match_evaluations
from diffguide.eval.plan import Cell, Plan, grid, shuffled
from diffguide.pipelines.errors import UserError


def plan(**changes):
    settings = {
        "model": "emoji-sd",
        "cells": grid(["cfg", "apg"], [2, 8], [10]),
        "num_images": 10,
        "prompts": ("a", "b"),
    }
    return Plan(**{**settings, **changes})


def test_the_grid_has_every_combination_once_rule_by_rule():
    cells = grid(["cfg", "apg: eta=0.5", "none"], [2, 4], [10, 25], ["ddim", "euler"])
    assert len(set(cells)) == 24
    assert [cell.guidance for cell in cells[::8]] == ["cfg", "apg:eta=0.5", "native"]
    assert {cell.setting for cell in cells[:8]} == {cell.setting for cell in cells[8:16]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cells": grid(["cfg", "cfg"], [2], [10])}, "twice"),
        ({"cells": ()}, "at least one cell"),
        ({"num_images": 0}, "at least one"),
        ({"keep": "jpg"}, "png, webp, none"),
        ({"seed_start": 2**63 - 5}, "do not stay"),
    ],
)
def test_what_cannot_be_right_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        plan(**changes)


def test_batches_cover_all_images_once_whatever_their_size():
    for size in (1, 3, 8, 64):
        one = plan(batch_size=size)
        assert [image for batch in range(one.batches) for image in one.images(batch)] == list(range(10))
        assert [(one.seed(k), one.prompt(k)) for k in range(3)] == [(0, "a"), (1, "b"), (2, "a")]


def test_a_plan_survives_json_and_names_what_differs():
    import json

    one = plan()
    again = Plan.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again == one
    assert again.difference(one) is None
    assert plan(num_images=11).difference(one) == "num images: 10 there, 11 here"
    assert "raag at scale 8, 10 steps here" in plan(cells=grid(["cfg", "raag"], [2, 8], [10])).difference(one)
    with pytest.raises(UserError, match="not the plan"):
        Plan.from_dict({"cells": []})


def test_the_command_is_read_back_to_the_same_plan():
    import shlex

    from diffguide.eval.cli import build_parser
    from diffguide.eval.compare import OPTIONS
    from diffguide.eval.comparison import make_plan

    words = ["compare", "--guidance", "cfg", "apg:eta=0.5", "--guidance-scale", "2", "8", "--output", "x"]

    def plan_of(line):
        args = build_parser().parse(line)
        return make_plan(**{name: getattr(args, name) for name in OPTIONS})

    first = plan_of([*words, "--metrics", "clipping", "--negative-prompt", 'a "b", c'])
    again = plan_of([*shlex.split(first.command())[1:], "--output", "y"])
    assert again == first
    assert first.prompts == tuple(shuffled(first.prompts))


def test_folders_are_safe_names_that_tell_cells_apart():
    cells = grid(["cfg", "apg:eta=0.5,momentum=-1"], [2.5], [10], ["dpm++"])
    names = [plan(cells=cells).folder(i) for i in range(2)]
    assert names == ["00-cfg-w2.5-s10-dpm++", "01-apg-eta=0.5-momentum=-1-w2.5-s10-dpm++"]


def test_efforts_are_matched_along_the_line_between_two_cells():
    assert interpolate([(10.0, 3), (20.0, 4)], 12.5) == ((3, 0.75), (4, 0.25))
    assert interpolate([(10.0, 3), (20.0, 4)], 10.05) == ((3, 1.0),)
    assert interpolate([(10.0, 3), (20.0, 4)], 21) == ()
    assert interpolate([(float("nan"), 3)], 21) == ()


def test_evaluations_are_matched_along_steps_and_effective_scale_along_scales():
    cells = [Cell("cfg", 4, 10), Cell("cfg", 8, 10), Cell("ag", 4, 10), Cell("ag", 4, 20), Cell("ag", 8, 10)]
    by_evaluations = match_evaluations(cells, [20, 20, 15, 25, 15])
    assert [(m.baseline, m.cells) for m in by_evaluations] == [(0, ((2, 0.5), (3, 0.5))), (1, ())]
    by_scale = match_effective_scale(cells, [4, 8, 3, 3.5, 7])
    assert [(m.baseline, m.cells) for m in by_scale] == [(0, ((2, 0.75), (4, 0.25))), (1, ())]


def test_cells_that_are_no_full_grid_have_no_command_line():
    from dataclasses import replace

    whole = plan(cells=grid(["cfg", "apg"], [2.0, 8.0], [10]))
    assert "--guidance-scale 2 8" in whole.command()
    assert replace(whole, cells=whole.cells[:3]).command() == ""
    assert plan(cells=grid(["cfg"], [2.0], [10], [None, "euler"])).command() == ""  # its own has no name


def test_a_reward_that_is_given_is_measured():
    from diffguide.eval.comparison import make_plan

    assert "reward" in make_plan(["cfg"], reward="clip").metrics
    assert "reward" not in make_plan(["cfg"]).metrics
