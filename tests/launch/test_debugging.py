"""JAX's options for debugging, set by environment variables, do not change the results."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def losses(folder: Path, *overrides: str, **variables: str) -> list[float]:
    """The losses of two steps of `python train.py`."""
    command = [sys.executable, str(ROOT / "train.py"), "max_steps=2", f"hydra.run.dir={folder}"]
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [*command, *overrides], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    records = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(record)["loss"] for record in records]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Callable[..., list[float]]:
    """The losses of a run without such an option."""
    return functools.cache(lambda *overrides: losses(tmp_path_factory.mktemp("plain"), *overrides))


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["JAX_DISABLE_JIT", "JAX_DEBUG_NANS"])
@pytest.mark.parametrize("overrides", [(), ("structure=kfac",), ("optimiser=adam",)])
def test_a_debugged_run_has_the_same_losses(variable, overrides, plain, tmp_path):
    debugged = losses(tmp_path, *overrides, **{variable: "1"})
    assert debugged == pytest.approx(plain(*overrides), rel=1e-5)
