"""JAX's own switches for debugging, as they are set in the environment."""

import json
import os
import subprocess
import sys
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


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["JAX_DISABLE_JIT", "JAX_DEBUG_NANS"])
@pytest.mark.parametrize("overrides", [(), ("structure=kfac",), ("optimiser=adam",)])
def test_a_run_is_the_same(variable, overrides, tmp_path):
    plain = losses(tmp_path / "plain", *overrides)
    debugged = losses(tmp_path / "debugged", *overrides, **{variable: "1"})
    assert debugged == pytest.approx(plain, rel=1e-5)
