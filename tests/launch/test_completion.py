"""Tab completion, switched on by the command in the documentation."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The commands that bash runs when Tab is pressed at the end of a line.
SCRIPT = """
eval "$(python train.py -sc install=bash)"
COMP_LINE="python train.py curvature=gau" COMP_POINT=29 COMP_CWORD=2
hydra_bash_completion
echo "${COMPREPLY[@]}"
"""


def test_the_options_of_a_group_are_found(train, monkeypatch):
    """The script that `-sc install=bash` prints runs this command."""
    monkeypatch.setenv("COMP_LINE", "python train.py curvature=gau")
    done = train("-sc", "query=bash")
    assert (done.code, done.out.split()) == (0, ["curvature=gauss_newton"]), done.err


@pytest.mark.slow
def test_completion_in_bash():
    assert SCRIPT.splitlines()[1] in (ROOT / "docs/how-to/command-line.md").read_text()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", SCRIPT],
        cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["curvature=gauss_newton"], done.stderr
