"""The import contract of pyproject.toml holds, and would be seen to break."""

import ast
import inspect
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import curvature

ROOT = Path(__file__).parent.parent
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
LINT = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, to write violations into."""
    copy = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for package in LINTER["root_packages"]:
        shutil.copytree(
            ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return copy


def test_contract_holds():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("curvature/likelihoods/gaussian.py", "import curvature.objective"),
        ("curvature/objective.py", "import curvature.operators"),
        ("curvature/operators.py", "import curvature.backends"),
        ("curvature/damping/constant.py", "import curvature.solvers"),
        ("curvature/backends/identity.py", "import curvature.optimisers"),
        ("curvature/backends/exact_fisher.py", "import curvature.backends.gauss_newton"),
        ("curvature/likelihoods/gaussian.py", "import curvature.likelihoods.bernoulli"),
        ("curvature/solvers/cg.py", "import curvature.solvers.auto"),
        ("curvature/optimisers/first_order.py", "import curvature.optimisers.natural_gradient"),
        ("curvature/damping/constant.py", "import curvature.damping.levenberg_marquardt"),
        ("curvature/objective.py", "import training"),
        ("curvature/a_floor_nobody_declared.py", ""),
        ("models/mlp.py", "import curvature"),
        ("data/digits.py", "import models"),
        ("training/run.py", "import launch"),
        ("training/run.py", "import models"),
        ("training/run.py", "from curvature.backends import GaussNewton"),
        ("training/run.py", "import omegaconf"),
        ("data/digits.py", "from hydra import utils"),
    ],
)
def test_contract_sees(project: Path, module: str, line: str):
    path = project / module
    original = path.read_text() if path.exists() else None
    path.write_text(f"{original or ''}\n{line}\n")
    try:
        result = lint(project)
    finally:
        path.unlink() if original is None else path.write_text(original)
    assert result.returncode == 1
    assert "BROKEN" in result.stdout
    assert path.stem in result.stdout.partition("Broken contracts")[2]


def test_training_names_no_particular_curvature():
    # The linter sees modules: not `cv.GaussNewton`, nor `from curvature import GaussNewton`.
    particular = {
        name
        for name, value in vars(curvature.backends).items()
        if inspect.isclass(value) and not inspect.isabstract(value)
    }
    assert "GaussNewton" in particular
    for path in (ROOT / "training").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "attr", getattr(node, "name", None))
            assert name not in particular, f"{path}:{node.lineno}"
