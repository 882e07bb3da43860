"""Questions and simple errors are answered without an import of JAX, which would take longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.selection import slow_but

ROOT = Path(__file__).parents[2]
# Runs `train.py` as usual, then prints which of the large packages it has imported.
SCRIPT = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv[0] = {str(ROOT / "train.py")!r}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    heavy = {{"jax", "equinox", "numpy", "optuna", "matplotlib"}} & set(sys.modules)
    print("imported:", *sorted(heavy))
"""


def run(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("--help", 0, "gauss_newton"),
        ("--cfg job curvature=identity", 0, "curvature.Identity"),
        ("-sc query=bash", 0, "curvature=gauss_newton"),
        ("--cfg job curvature=nonsense", 2, "`curvature=nonsense`"),
        ("curvature=nonsense", 2, "`curvature=nonsense`"),
        ("sampels=5", 2, "`samples`"),
        ("curvature=gauss_newton samples=5", 2, "is not used by"),
        ("-m seed=0,1 hydra/launcher=nonsense", 2, "`hydra/launcher=nonsense`"),
    ],
)
def test_the_answer_imports_no_large_package(arguments, code, says, tmp_path):
    done = run(tmp_path, *arguments.split(), COMP_LINE="python train.py curvature=gau")
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("platform", slow_but(["tpu"], ["tpu", "nonsense"]))
def test_a_device_that_is_not_there_is_one_sentence(platform, tmp_path):
    done = run(tmp_path, "max_steps=1", JAX_PLATFORMS=platform)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"`JAX_PLATFORMS={platform}`: JAX finds no such device")
    assert not list(tmp_path.iterdir())
