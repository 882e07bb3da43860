"""JAX's options for debugging, set by environment variables, do not change the results."""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from running import ExitCode

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


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_run_that_compiles(tmp_path):
    """It ends at once with its exit code, although XLA still compiles in another thread."""
    command = [sys.executable, str(ROOT / "train.py"), "compilation_cache=null", "model=convnet"]
    with subprocess.Popen(
        [*command, f"hydra.run.dir={tmp_path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert any("compiling" in line for line in run.stdout)
        run.send_signal(signal.SIGINT)
        assert any("Press Ctrl-C again" in line for line in run.stderr)
        run.send_signal(signal.SIGINT)
        run.stderr.read()
    assert run.returncode == ExitCode.INTERRUPTED
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "interrupted"
