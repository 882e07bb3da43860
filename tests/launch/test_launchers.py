"""Sweeps whose jobs run in other processes, some of which are killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hydra_plugins.curvature_launchers.parallel import ParallelLauncher
from tests.selection import slow_but
from tests.sweep_table import rows

ROOT = Path(__file__).parents[2]
STEP = 20
FATAL = f'''
import os

import jax


def schedule(signal):
    """A damping of 1. At step {STEP} the process sends itself the signal; -1 is an exception."""

    def act(step):
        if step == {STEP} and signal == -1:
            raise RuntimeError("out of luck")
        if step == {STEP} and signal:
            os.kill(os.getpid(), signal)

    def at(step):
        jax.debug.callback(act, step)
        return 1.0

    return at
'''
CHEAP = "model=linear", "curvature=identity", "search=learning_rate"  # takes little time to compile
SIGNALS = signal.SIGKILL, 0, -1, signal.SIGSEGV


def python_train(folder, *arguments):
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def fatal(tmp_path_factory):
    """Arguments for a sweep with one job for each number in `SIGNALS`; `FATAL` acts on it."""
    mine = tmp_path_factory.mktemp("mine")
    (mine / "fatal.py").write_text(FATAL)
    (mine / "damping").mkdir()
    schedule = {"_target_": "fatal.schedule", "signal": 0}
    damping = {"_target_": "curvature.ScheduledDamping", "schedule": schedule}
    (mine / "damping" / "fatal.yaml").write_text(yaml.safe_dump(damping))
    signals = ",".join(str(int(number)) for number in SIGNALS)
    return (
        *("-m", "--config-dir", str(mine), "damping=fatal", f"damping.schedule.signal={signals}"),
        *(f"max_steps={STEP + 5}", *CHEAP),
    )


@pytest.fixture(scope="module", params=slow_but([], ["parallel", "local"]))
def sweep(request, fatal, tmp_path_factory):
    """A sweep of which three jobs fail: its launcher, its output and its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    done = python_train(folder, *fatal, f"hydra/launcher={request.param}")
    (made,) = folder.glob("multirun/*/*")
    return request.param, done, made


def test_a_fault_is_in_the_table_and_ends_no_other_job(sweep):
    _, done, _ = sweep
    table = rows(done.stdout)
    assert [row["damping.schedule.signal"] for row in table] == ["9", "0", "-1", "11"]
    assert [row["status"] for row in table] == ["killed", "finished", "failed", "killed"]
    assert table[0]["reason"].startswith("No summary.json: ")
    assert "error calling callback" in table[2]["reason"]
    assert done.returncode == 1
    assert not done.stderr


def test_the_steps_before_a_fault_are_recorded(sweep):
    _, _, made = sweep
    assert {path.name for path in made.iterdir() if path.name.isdecimal()} == {"0", "1", "2", "3"}
    steps = {}
    for number in range(4):
        assert yaml.safe_load((made / str(number) / "config.yaml").read_text())["max_steps"]
        lines = (made / str(number) / "metrics.jsonl").read_text().splitlines()
        steps[number] = [json.loads(line)["step"] for line in lines]
        assert steps[number] == list(range(1, len(lines) + 1))
    assert len(steps[1]) == STEP + 5
    # A step is dispatched before the previous one is recorded.
    assert all(STEP - 2 <= len(steps[number]) <= STEP + 1 for number in (0, 2, 3))
    assert "4 runs, 1 finished" in (made / "report" / "report.html").read_text()


def test_the_output_of_a_job_is_kept(sweep):
    launcher, done, made = sweep
    if launcher == "parallel":
        logs = [made / "logs" / f"{number}.log" for number in range(4)]
        assert "ended by SIGKILL" in done.stdout
        assert "ended by SIGSEGV" in done.stdout
    else:
        logs = list(made.glob(".submitit/*/*_log.out"))
    assert len(logs) == 4
    assert sum("finished after 25 steps" in log.read_text() for log in logs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_that_give_up_still_end_with_the_table(launcher, fatal, tmp_path):
    done = python_train(tmp_path, *fatal, f"hydra/launcher={launcher}")
    assert done.returncode == 1
    assert "Traceback (most recent call last):\n" not in done.stderr
    statuses = [row["status"] for row in rows(done.stdout)]
    assert statuses[0] == "killed"
    assert len(statuses) == 4


@pytest.mark.slow
def test_precision_does_not_leak(tmp_path):
    """A job has the same results after another job in its process as in a process of its own."""
    found = {}
    for launcher, precisions in (
        ("basic", ("true", "false")),
        ("basic", ("false", "true")),
        ("parallel", ("true", "false")),
    ):
        name = "-".join((launcher, *precisions))
        done = python_train(
            *(tmp_path, "-m", f"x64={','.join(precisions)}", "max_steps=2", *CHEAP),
            *(f"hydra/launcher={launcher}", f"hydra.sweep.dir={name}"),
        )
        assert done.returncode == 0, done.stderr
        for number, precision in enumerate(precisions):
            folder = tmp_path / name / str(number)
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            losses = [json.loads(line)["loss"] for line in lines]
            taken = losses, (folder / "model.eqx").read_bytes()
            found.setdefault(precision, []).append(taken)
    for first, after, alone in found.values():
        assert first == after == alone
    assert found["true"][0] != found["false"][0]


@pytest.mark.parametrize(
    ("launcher", "module"),
    [("parallel", "hydra_joblib_launcher._core"), ("local", "hydra_submitit_launcher.config")],
)
def test_a_launcher_that_is_not_installed_is_one_sentence(launcher, module, train, monkeypatch):
    monkeypatch.setitem(sys.modules, f"hydra_plugins.{module}", None)
    done = train("-m", "seed=0,1", f"hydra/launcher={launcher}")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert f"`hydra/launcher={launcher}` needs" in line
    assert ".[sweeps]" in line
    assert not done.made


def test_all_cores_are_those_that_this_process_may_use():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert ParallelLauncher(n_jobs=-1).at_once == 1
    finally:
        os.sched_setaffinity(0, before)
