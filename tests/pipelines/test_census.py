"""No pipeline with guidance is forgotten, and what is written of them is what the table and the tests say."""

import pytest
from census import DOCUMENT, TESTED, document, guided_classes, pipeline_classes, written_table
from families import classes_run

from diffguide.pipelines.table import TABLE

pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_pipeline_with_guidance_is_in_the_table() -> None:
    known = {name for layout in TABLE for name in layout.classes}
    found = guided_classes()
    assert len(found) > 250
    assert sorted(set(found) - known) == []


def test_the_table_names_no_class_twice_or_without_a_class() -> None:
    names = [name for layout in TABLE for name in layout.classes]
    assert len(names) == len(set(names))
    assert sorted(set(names) - set(pipeline_classes())) == []


def test_what_is_written_is_what_the_tests_run() -> None:
    """Run `python tests/pipelines/census.py --write` when this fails."""
    tested = classes_run()
    assert TESTED.read_text(encoding="utf-8") == written_table(tested)
    assert DOCUMENT.read_text(encoding="utf-8") == document(tested)
