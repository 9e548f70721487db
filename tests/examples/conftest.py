import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "results"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module
