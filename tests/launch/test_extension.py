"""A curvature from outside the repository: one module, one YAML file, `--config-dir`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = Path(__file__).parents[2] / "train.py"
MODULE = """
import jax.numpy as jnp
import curvature as cv

class Mine(cv.AbstractPullback):
    scale: float = 1.0

    def factor(self, likelihood, z, y, *, key):
        return self.scale * jnp.eye(z.size, dtype=z.dtype)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "extra" / "curvature").mkdir(parents=True)
    (tmp_path / "extra" / "mine.py").write_text(MODULE)
    (tmp_path / "extra" / "curvature" / "mine.yaml").write_text("_target_: mine.Mine\nscale: 0.5\n")
    return tmp_path


def _train(folder, *arguments):
    command = [sys.executable, str(TRAIN), "--config-dir", "extra", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_it_runs(folder):
    done = _train(folder, "curvature=mine", "curvature.scale=2", "max_steps=2", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert (summary["curvature"], summary["steps"]) == ("mine", 2)


def test_its_errors_are_sentences_too(folder):
    (folder / "extra" / "mine.py").write_text(MODULE.replace("import curvature", "import curvatur"))
    done = _train(folder, "curvature=mine")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "`curvature` cannot be imported" in line
    assert "curvatur" in line
    assert {path.name for path in folder.iterdir()} == {"extra"}
