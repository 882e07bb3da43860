"""A rule that `lint-imports` cannot check, because it knows modules but not imported names."""

import ast
import inspect
from pathlib import Path

import curvature as cv

TRAINING = Path(__file__).parent.parent / "training"


def test_training_names_no_particular_curvature():
    particular = {
        name
        for name, value in vars(cv).items()
        if inspect.isclass(value)
        and issubclass(value, cv.AbstractPullback)
        and not inspect.isabstract(value)
    }
    assert "GaussNewton" in particular
    for path in TRAINING.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "attr", getattr(node, "name", None))
            assert name not in particular, f"{path}:{node.lineno}"
