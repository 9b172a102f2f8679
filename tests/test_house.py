"""The house of docs/architecture.md: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "kneel.imaging": {"kneel.imaging"},
    "kneel.phantom": {"kneel.phantom", "kneel.imaging"},
    "kneel.engine": {"kneel.engine"},
    "kneel.bootstrap": {"kneel.bootstrap"},  # the one bootstrap over subjects, for the evaluations of both packages
    "kneel": {"kneel", "kneel.imaging", "kneel.engine", "kneel.bootstrap"},
    "deepknee": {"deepknee", "kneel.imaging", "kneel.engine", "kneel.bootstrap"},
}
HANDED_ON = [  # where the knees that kneel finds, and what it measures on them, come into deepknee
    ("deepknee/pipeline.py", "kneel.localize"),
    ("deepknee/pipeline.py", "kneel.measure"),
    ("deepknee/knee_reading.py", "kneel.measure"),
]
MODULES = sorted([*ROOT.glob("kneel/**/*.py"), *ROOT.glob("deepknee/**/*.py")])


def room(module):
    """The longest name in ALLOWED that a dotted module name starts with."""
    return max((name for name in ALLOWED if f"{module}.".startswith(f"{name}.")), key=len, default=None)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_its_neighbours(path):
    here = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in imports(path):
        assert not name.startswith("scripts"), f"{path} imports {name}"
        there = room(name)
        handed_on = any(path == ROOT / own and name.startswith(f"{module}.") for own, module in HANDED_ON)
        assert there is None or there in ALLOWED[here] or handed_on, f"{path} imports {name}"


def test_the_rule_is_seen_to_bite():
    assert room("kneel.phantom.render") == "kneel.phantom"
    assert room("kneel.localize.KneeLocalizer") == "kneel"
    assert room("numpy.linalg") is None
    assert "deepknee" not in ALLOWED["kneel"]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("kneel.imaging", "torch"),
        ("kneel.phantom.cohort", "torch"),
        ("kneel.engine.queue.report", "torch"),
        ("deepknee.cli", "torch"),  # deepknee --help answers at once
        ("deepknee.pipeline", "torchvision"),  # augmentation is a matter of training
    ],
)
def test_nothing_heavy_is_loaded_that_is_not_needed(module, heavy):
    code = f"import sys, {module}; print({heavy!r} in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "False"


def test_ray_is_an_extra_that_nothing_loads_by_itself():
    """Every module is imported in one process; neither Ray nor pyarrow may come with them."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES if path.name != "__init__.py"]
    block = "sys.modules['ray'] = sys.modules['pyarrow'] = None"  # importing them fails, as without the extra
    code = f"import importlib, sys; {block}; [importlib.import_module(name) for name in {modules}]"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_without_ray_it_is_said_how_to_install_it():
    code = "import sys; sys.modules['ray'] = None; from kneel.engine.ray_cluster import load_ray; load_ray()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "pip install '.[ray]'" in result.stderr
