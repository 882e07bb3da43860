"""The table and the exit code of a sweep, for every state in which jobs may leave their folders."""

import json
import os

import pytest

from tests.sweep_table import rows
from training.sweep import Sweep, SweepJob

SUMMARY = {"status": "finished", "exit_code": 0, "steps": 3, "test": {"accuracy": 0.5}}


@pytest.fixture
def end(tmp_path, capsys):
    """`end(*writes)`: the exit code and the table of a sweep, after each job wrote its folder.

    `earlier` writes the folders of all jobs before the sweep begins.
    """

    def run(*writes, earlier=lambda folder: None):
        jobs = [SweepJob([f"seed={k}", "x=1"], tmp_path / str(k)) for k in range(len(writes))]
        for job in jobs:
            earlier(job.folder)
        sweep = Sweep(tmp_path, lambda: jobs)
        for job, write in zip(jobs, writes, strict=True):
            write(job.folder)
        code = sweep.end()
        return code, rows(capsys.readouterr().out)

    return run


def finish(folder, **entries):
    folder.mkdir(exist_ok=True)
    (folder / "new").write_text(json.dumps(SUMMARY | entries))
    os.replace(folder / "new", folder / "summary.json")


def fail(folder):
    folder.mkdir(exist_ok=True)
    (folder / "error.log").write_text("Traceback\n  File\nRuntimeError: [out] of memory\n")


def die(folder):
    folder.mkdir(exist_ok=True)


def do_not_start(folder):
    pass


def test_every_job_has_a_row_however_it_ended(end):
    code, table = end(finish, fail, die, do_not_start)
    assert code == 1
    assert [row["status"] for row in table] == ["finished", "failed", "killed", "not started"]
    assert [row["accuracy"] for row in table] == ["0.5", "-", "-", "-"]
    assert table[1]["reason"] == "RuntimeError: [out] of memory"
    assert table[2]["reason"].startswith("No summary.json: ")
    assert "x" not in table[0]


@pytest.mark.parametrize("code", [0, 1, 75, 130])
def test_the_worst_exit_code_counts(code, end):
    found, table = end(finish, lambda folder: finish(folder, exit_code=code))
    assert found == code
    assert "reason" not in table[0]


def test_files_of_an_earlier_launch_are_not_counted(end):
    def earlier(folder):
        finish(folder)
        fail(folder)

    code, table = end(finish, die, earlier=earlier)
    assert code == 1
    assert [row["status"] for row in table] == ["finished", "killed"]


def test_a_sweep_without_any_files_has_no_report(tmp_path, capsys):
    job = SweepJob(["seed=0"], tmp_path / "0")
    assert Sweep(tmp_path, lambda: [job]).end() == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("No report: There is no run in ")
