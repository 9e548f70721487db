"""The package as it is installed: what an import costs, and what is inside the wheel."""

import ast
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("guidance", "pipelines", "eval")


def python(code: str, **options) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120, **options
    ).stdout


def test_rules_do_not_import_diffusers():
    loaded = python("import sys, diffguide.guidance; print(*sys.modules)").split()
    assert "torch" in loaded
    assert not {"diffusers", "transformers", "torchmetrics"} & set(loaded)


def test_command_line_starts_without_torch():
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "import sys; from diffguide.eval.cli import main; main(['--help']); print(*sys.modules)"
    loaded = python(code)
    assert "generate" in loaded
    assert "torch" not in loaded.split()
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime < 3  # under one second on an idle machine


def test_all_that_is_imported_is_declared():
    """`typing_extensions` is for type checkers alone, which bring it along."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for part in PARTS for path in (ROOT / part).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"diffguide", "typing_extensions"}
    declared = set(re.findall(r'(?m)^    "([\w-]+)[>=]', (ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    assert {{"PIL": "pillow"}.get(name, name.replace("_", "-")) for name in tops} <= declared


@pytest.mark.slow
def test_wheel_built_from_the_sdist_holds_the_models(tmp_path):
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 100e6
    names = set(zipfile.ZipFile(wheel).namelist())
    for part in ("emoji-clip/model", "emoji-vae/diffusion_pytorch_model", "emoji-sd/unet/diffusion_pytorch_model"):
        assert f"diffguide/pipelines/models/{part}.safetensors" in names
    assert {f"diffguide/{folder}/py.typed" for folder in ("guidance", "pipelines", "eval")} <= names
    assert not [name for name in names if name.startswith(("tests/", "examples/"))]

    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=600)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import diffguide.pipelines.embedded as e; assert e.MODELS.is_relative_to(sys.path[0]), e.MODELS\n"
        "from diffguide.pipelines import load_pipeline; print(type(load_pipeline('emoji-flow')).__name__)"
    )
    assert python(code, cwd=tmp_path).strip() == "StableDiffusion3Pipeline"
