import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from training import is_restart, train
from training.provenance import write_provenance

ROOT = Path(__file__).parents[2]


def test_a_run_records_its_command_machine_and_commit(make_run, tmp_path):
    summary = train(make_run(max_steps=2), tmp_path)
    found = json.loads((tmp_path / "provenance.json").read_text())
    assert found["command"] == sys.argv
    assert found["machine"]["versions"]["jax"] == jax.__version__
    assert found["machine"] == summary["machine"]
    assert found["git"] == summary["git"]


def test_the_commit_is_the_one_that_is_checked_out(tmp_path):
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if head.returncode != 0:
        pytest.skip("not a repository")
    write_provenance(tmp_path)
    git = json.loads((tmp_path / "provenance.json").read_text())["git"]
    assert git["commit"] == head.stdout.strip()
    assert isinstance(git["changed"], bool)


@pytest.mark.parametrize(
    ("job", "restarts", "expected"),
    [
        ("7", "1", True),
        ("7", "3", True),
        ("7", "0", False),  # it was not restarted, so the folder is that of another run
        ("7", None, False),
        ("8", "1", False),
        (None, None, False),
    ],
)
def test_only_a_restart_of_the_same_job_is_a_restart(
    tmp_path, monkeypatch, job, restarts, expected
):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    write_provenance(tmp_path)
    for name, value in (("SLURM_JOB_ID", job), ("SLURM_RESTART_COUNT", restarts)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert is_restart(tmp_path) is expected
    assert not is_restart(tmp_path / "missing")
