"""`README.md`, `CHANGELOG.md`, `CITATION.cff` and `pyproject.toml` agree with each other."""

import tomllib
from pathlib import Path

import yaml

import curvature as cv

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_all_files_have_the_same_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == cv.__version__
    assert f"\n## {cv.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_installs_what_it_runs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert "pip install -e '.[train]'\npython train.py" in README
    assert "curvature[train]" in extras["sweeps"]
    assert "curvature[sweeps]" in extras["test"]
