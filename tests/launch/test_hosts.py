"""`train.py` in several processes on one machine, each with its own devices."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
COMMAND = "model.width=8", "x64=true", "optimiser=sgd"
KFAC = "model.width=8", "x64=true", "structure=kfac", "solver=structured"


def by_hand(count: int, index: str, port: str) -> dict[str, str]:
    place = {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": index}
    return place | {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}"}


def slurm(count: int, index: str, port: str) -> dict[str, str]:
    step = {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_NODELIST": "127.0.0.1,other"}
    task = {"SLURM_PROCID": index, "SLURM_LOCALID": index, "SLURM_NTASKS": str(count)}
    return {"SLURM_JOB_ID": port, "JAX_COORDINATOR_PORT": port} | step | task


def open_mpi(count: int, index: str, port: str) -> dict[str, str]:
    world = {"OMPI_COMM_WORLD_SIZE": str(count), "OMPI_COMM_WORLD_RANK": index}
    told = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911"}
    return {"OMPI_COMM_WORLD_LOCAL_RANK": index, "JAX_COORDINATOR_PORT": port} | world | told


class Started:
    """The processes of one command.

    `told(count, index, port)` gives the environment variables that a launcher sets in a process.
    """

    def __init__(self, count: int, folder: Path, *arguments: str, devices: int = 1, told=by_hand):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
        # The runs are compared with each other, so they compile as quickly as they can.
        shared["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *arguments],
                env=os.environ | shared | (told(count, str(index), port) if count > 1 else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=folder,
            )
            for index in range(count)
        ]

    def wait_for_a_step(self) -> None:
        """Wait until the first process has printed a step."""
        out = self.processes[0].stdout
        assert out is not None
        for line in out:
            if "/" in line and " loss " in line:
                return
        raise AssertionError(self.end())

    def end(self) -> list[tuple[int, str]]:
        """The exit code and the standard error of each process."""
        errors = [process.communicate()[1] for process in self.processes]
        return [
            (process.returncode, said) for process, said in zip(self.processes, errors, strict=True)
        ]


def finish(count: int, folder: Path, *arguments: str, devices: int = 1) -> None:
    for code, said in Started(count, folder.parent, *arguments, devices=devices).end():
        assert code == 0, said


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(folder: Path) -> np.ndarray:
    names = "step", "loss", "grad_norm", "step_norm"
    return np.array([[record[name] for name in names] for record in records(folder)])


def losses(folder: Path) -> list[float]:
    summary = json.loads((folder / "summary.json").read_text())
    return [summary["train_loss"], summary["test_loss"], summary["best"]["loss"]]


def assert_same_bits(one: Path, other: Path) -> None:
    assert (one / "model.eqx").read_bytes() == (other / "model.eqx").read_bytes()
    first, second = (
        [{**r, "seconds": 0, "processor_seconds": 0} for r in records(folder)]
        for folder in (one, other)
    )
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "devices", "arguments"),
    [(4, 1, COMMAND), (2, 1, (*COMMAND, "batch_size=null", "train_examples=600"))],
    ids=["batches", "all examples"],
)
def test_several_processes_have_the_results_of_one(count, devices, arguments, tmp_path):
    for name, processes, each in (("one", 1, count * devices), ("several", count, devices)):
        folder = tmp_path / name
        where = f"hydra.run.dir={folder}", "devices=all", "max_steps=12"
        finish(processes, folder, *arguments, *where, devices=each)
    one, several = tmp_path / "one", tmp_path / "several"
    np.testing.assert_allclose(numbers(several), numbers(one), rtol=1e-10)
    np.testing.assert_allclose(losses(several), losses(one), rtol=1e-10)


@pytest.mark.slow
def test_sharded_weights_can_be_resumed_in_other_processes(tmp_path):
    """In two processes with two devices each, then in four with one, then in one with one."""
    one, several = tmp_path / "one", tmp_path / "several"
    finish(1, one, *KFAC, f"hydra.run.dir={one}", "max_steps=12")
    where = f"hydra.run.dir={several}", "sharding=fsdp", "max_steps=4"
    finish(2, several, *KFAC, *where, devices=2)
    finish(4, several, f"resume={several}", "max_steps=8")
    finish(1, several, f"resume={several}", "max_steps=12", "sharding=replicated")
    np.testing.assert_allclose(numbers(several), numbers(one), rtol=1e-10)
    np.testing.assert_allclose(losses(several), losses(one), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("told", [slurm, open_mpi])
def test_a_launcher_gives_the_number_of_processes(told, tmp_path):
    """It also gives the address of process 0, which chooses the only folder of the run."""
    arguments = *COMMAND, "max_steps=2"
    for code, said in Started(2, tmp_path, *arguments, told=told).end():
        assert code == 0, said
    assert len(list(tmp_path.rglob("metrics.jsonl"))) == 1


@pytest.fixture(scope="module")
def whole_of(tmp_path_factory) -> Callable[..., Path]:
    """The folder of an uninterrupted run with the given number of processes."""

    @functools.cache
    def of(count: int, *arguments: str) -> Path:
        folder = tmp_path_factory.mktemp("whole") / "run"
        finish(count, folder, *arguments, f"hydra.run.dir={folder}")
        return folder

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("received", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_to_one_stops_all_and_the_run_is_resumed_bit_for_bit(
    received, code, whole_of, tmp_path
):
    whole, parts = whole_of(2, *COMMAND), tmp_path / "parts"
    started = Started(2, tmp_path, *COMMAND, f"hydra.run.dir={parts}")
    started.wait_for_a_step()
    started.processes[1].send_signal(signal.Signals[received])
    assert [ended for ended, _ in started.end()] == [code, code]
    summary = json.loads((parts / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert f"Stopped by {received} after step {summary['steps']};" in summary["reason"]
    assert summary["steps"] < len(records(whole))
    finish(2, parts, f"resume={parts}")
    assert_same_bits(parts, whole)


INTERRUPTED = """
import os

from models import MLP


def model(**arguments):
    if os.environ["JAX_PROCESS_ID"] == "1":
        raise KeyboardInterrupt
    return MLP(**arguments)
"""
MODEL = """
_target_: interrupted.model
_partial_: true
input_shape: null
output_size: null
"""


@pytest.mark.slow
def test_ctrl_c_in_one_before_the_run_ends_all(tmp_path):
    mine = tmp_path / "mine"
    (mine / "model").mkdir(parents=True)
    (mine / "interrupted.py").write_text(INTERRUPTED)
    (mine / "model" / "interrupted.yaml").write_text(MODEL)
    started = Started(2, tmp_path, "--config-dir", "mine", "model=interrupted", "optimiser=sgd")
    assert started.end() == [(130, ""), (130, "")]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_process_ends_the_others_and_the_run_is_resumed(victim, whole_of, tmp_path):
    whole, parts = whole_of(3, *COMMAND, "batch_size=126"), tmp_path / "parts"
    where = f"hydra.run.dir={parts}", "checkpoint_seconds=0.1"
    started = Started(3, tmp_path, *COMMAND, "batch_size=126", *where)
    started.wait_for_a_step()
    started.processes[victim].kill()
    ended = started.end()
    assert ended.pop(victim)[0] == -signal.SIGKILL
    assert all(code == 1 for code, _ in ended)
    assert "Another process of the run has ended" in ended[0][1] + ended[1][1]
    assert len(records(parts)) < len(records(whole))
    finish(3, parts, f"resume={parts}")
    assert_same_bits(parts, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["hydra.run.dir=taken"], "The folder `taken` already holds a run (metrics.jsonl); "),
        (["model.depth=none"], "`MLP(depth=...)` must be an integer of at least 0, got 'none'."),
        (["--nope"], "Cannot parse the command line: unrecognized arguments: --nope."),
        (["-m", "seed=0,1"], "A sweep needs a single process, got 2. "),
        (["micro_batch=auto"], "`micro_batch=auto` needs a single process, got 2. "),
        (["stop_at_nan=true"], "`stop_at_nan=true` needs a single process, got 2. "),
        (["recorders=tensorboard"], "The recorder `tensorboard` reads whole arrays every 100 "),
        (["devices=1"], "`devices=1`, but 2 processes have 2 devices. Several processes "),
    ],
    ids=lambda value: value[0].partition("=")[0] if isinstance(value, list) else "",
)
def test_all_processes_together_refuse_in_one_sentence(arguments, sentence, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "metrics.jsonl").touch()
    first, second = Started(2, tmp_path, *arguments, *COMMAND).end()
    assert (first[0], second[0]) == (2, 2)
    (line,) = (first[1] + second[1]).splitlines()
    assert line.startswith(sentence)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
