"""The comparisons behind the results page: every claim's cells can be sampled, and its statements are about them."""

import json

import pytest

from diffguide.pipelines.calibrated import rule_on


def imagined(plan):
    """Results in which a higher scale is worse, and evaluations are those of plain guidance."""

    def metrics(cell):
        values = {"fid": cell.guidance_scale + 1, "evaluations": 2 * cell.steps * (0.7 if ":" in cell.guidance else 1)}
        return {name: {"value": value} for name, value in values.items()}

    settings = ("guidance", "guidance_scale", "steps")
    cells = [{name: getattr(cell, name) for name in settings} | {"metrics": metrics(cell)} for cell in plan.cells]
    return {"cells": cells}


def test_every_cell_has_a_rule_and_every_statement_has_cells(tool):
    from diffguide.eval.columns import COMPUTED

    claims, done, plans = tool("claims"), {}, {}
    for name, part in claims.PARTS.items():
        plans[name] = part.plan(done, 16)
        done[name] = imagined(plans[name])
        for cell in plans[name].cells:
            rule_on(part.model, cell.guidance, cell.guidance_scale, cell.steps, cell.scheduler)
    for name, claim in claims.CLAIMS.items():
        statements = claim.statements({part: done[part] for part in claim.parts})
        assert len({statement.says for statement in statements}) == len(statements) > 2, name
        for statement in statements:
            plan = plans[statement.part]
            assert all(0 <= cell < len(plan.cells) for cell in statement.weights)
            assert len(statement.weights) > 1
            assert statement.metric in (*plan.metrics, *COMPUTED)
        for chart in claim.charts:
            assert chart.along == "step" or chart.metric in plans[chart.part].metrics
            assert set(chart.rules) <= set(plans[chart.part].guidances)
        assert not claim.matched or claim.matched in claim.parts


def test_the_gallery_shows_what_is_sampled_and_kept(tool, tmp_path):
    from PIL import Image

    from diffguide.eval.store import Store

    gallery, parts = tool("gallery"), tool("claims").PARTS
    for name, size in {"burning": 9, "sweep": 7}.items():
        assert not gallery.draw_gallery(tmp_path, tmp_path / "gallery.png")  # before both are there
        plan = parts[name].plan({}, size)
        store = Store(tmp_path / name, plan)
        store.make_folders()
        (tmp_path / name / "plan.json").write_text(json.dumps(plan.to_dict()))
        for place in (place for _, part, place in gallery.columns() if part == name):
            for image in filter(plan.keeps, range(size)):
                Image.new("RGB", (64, 64), "red").save(store.image_path(plan.cells.index(place), image))
    assert gallery.draw_gallery(tmp_path, tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as drawn:
        assert (255, 0, 0) in {colour for _, colour in drawn.convert("RGB").getcolors(1 << 20)}
    store.image_path(plan.cells.index(place), 0).unlink()
    assert not gallery.draw_gallery(tmp_path, tmp_path / "gallery.png")  # the sweep is not finished


def test_scales_are_tuned_on_other_seeds_than_they_are_judged_on(tool):
    parts = tool("claims").PARTS
    done = {"sweep": imagined(parts["sweep"].plan({}, 16))}
    assert set(tool("plans").tuned_scales(done).values()) == {2.0}  # the lowest, as imagined
    plans = parts["sweep"].plan({}, 4096), parts["front"].plan(done, 4096)
    assert parts["burning"].seed_start == parts["sweep"].seed_start  # of the gallery's rows
    first, second = ({plan.seed(image) for image in range(4096)} for plan in plans)
    assert not first & second
    assert [plan.prompt(9) for plan in plans] == [plans[0].prompt(9)] * 2
    assert {cell.guidance_scale for cell in plans[1].cells} == {2.0}


@pytest.mark.parametrize(
    ("sign", "low", "high", "word"),
    [
        (-1, -2.0, -1.0, "holds"),
        (-1, 1.0, 2.0, "does not hold"),
        (1, 1.0, 2.0, "holds"),
        (1, -2.0, -1.0, "does not hold"),
        (1, -1.0, 1.0, "undecided"),
        (-1, -1.0, 0.0, "undecided"),
        (-1, None, None, "undecided"),
    ],
)
def test_verdicts(tool, sign, low, high, word):
    assert tool("claims").verdict(sign, low, high) == word


def test_a_chart_of_best_scales_leaves_out_the_baseline_at_those_of_others(tool):
    cells = [
        {"guidance": rule, "guidance_scale": scale, "steps": steps, "metrics": {"fid": {"value": fid}}}
        for rule, scale, steps, fid in (
            ("cfg", 2.0, 8, 5.0),
            ("cfg", 2.0, 12, 4.0),
            ("cfg", 6.0, 8, 4.5),
            ("raag", 6.0, 8, 4.2),
            ("ag", 2.0, 8, 1.0),
        )
    ]
    chart = tool("claims").Chart("front", "fid", "evaluations", ("cfg", "raag", "ag"), best=True)
    shown = tool("figures").drawn(cells, chart, {"cfg": 2.0, "raag": 6.0})  # AG has that of plain guidance
    assert shown == [cells[0], cells[1], cells[3], cells[4]]
    shown = tool("figures").drawn(cells, chart, {"cfg": 6.0, "raag": 6.0, "ag": 4.0})  # by tuning, not by its result
    assert shown == [cells[2], cells[3]]
