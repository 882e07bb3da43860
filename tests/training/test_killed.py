"""A run that was killed, or whose disk was full, ends as one that was not, bit for bit."""

import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.selection import slow_but
from tests.training.killed_child import STEPS, run
from tests.training.streams import KINDS
from training import FolderError, train

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("killed_child.py")
SECONDS = 0.5
"""A run takes about twice as long from its first step to its last."""


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """The run in a process of its own, with the program that this process compiles."""
    same_program = {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen(
        [sys.executable, str(CHILD), str(folder), *arguments],
        env=os.environ | same_program,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, kind: str = "memory") -> None:
    train(run(folder, kind), folder, resume=folder.exists())


def kill_at_time(folder: Path, kind: str, seconds: float) -> bool:
    """Kill the process so long after its first step; whether it was alive."""
    process = start(folder, kind)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("killed ") and "/" in line:  # the display has shown a step
            break
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    return was_killed(process)


def kill_at_operation(folder: Path, kind: str, number: int) -> bool:
    """Let the process die at so many operations on its files; whether it did."""
    return was_killed(start(folder, kind, str(number)))


def was_killed(process: subprocess.Popen) -> bool:
    _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode != 0


@pytest.fixture(scope="module")
def whole_of(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a run with data of a kind that nothing interrupted."""

    @functools.cache
    def of(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("whole") / "run"
        finish(folder, kind)
        return folder

    return of


def assert_same(folder: Path, whole: Path) -> None:
    assert (folder / "model.eqx").read_bytes() == (whole / "model.eqx").read_bytes()
    found, expected = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (folder, whole)
    )
    assert [record["step"] for record in found] == list(range(1, len(expected) + 1))
    for record in (*found, *expected):
        del record["seconds"], record["processor_seconds"]
    assert found == expected
    summaries = [json.loads((path / "summary.json").read_text()) for path in (folder, whole)]
    for name in ("best", "train_loss", "validation_loss", "test", "gradient_equivalents"):
        assert summaries[0][name] == summaries[1][name]
    best = "checkpoints/best.eqx"
    assert (folder / best).read_bytes() == (whole / best).read_bytes()
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("kind", slow_but(["memory", "iterable"], ["memory", *KINDS]))
def test_killed_among_its_files(kind, whole_of, tmp_path):
    """A checkpoint is written every few steps: the thirtieth operation is on one of them.

    The batches of a stream are those of the data in memory, and so is the last bit of the end.
    """
    assert kill_at_operation(tmp_path / "run", kind, 30)
    finish(tmp_path / "run", kind)
    assert_same(tmp_path / "run", whole_of(kind))
    in_memory = whole_of("memory") / "model.eqx"
    assert (tmp_path / "run" / "model.eqx").read_bytes() == in_memory.read_bytes()


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(whole_of, tmp_path):
    folder = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(FolderError) as refused:
            train(run(folder, "memory"), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (said,) = str(refused.value).splitlines()
    assert said.startswith("Cannot write to the run folder")
    assert "File too large. The files in it are intact. Fix the cause, then continue with" in said
    assert f"`resume={folder}`" in said
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"
    assert len(list((folder / "checkpoints").glob("step_*.ckpt"))) == 2
    assert not list(folder.rglob("*.tmp"))
    finish(folder)
    assert_same(folder, whole_of("memory"))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", *KINDS])
def test_killed_at_random_moments(kind, whole_of, tmp_path):
    """Half of them at random times, half at random operations on the run's files."""
    generator, killed, number = random.Random(kind), 0, 0
    while killed < 12:
        folder = tmp_path / str(number) / "run"
        folder.parent.mkdir()
        number += 1
        for attempt in range(8):
            if attempt % 2:
                alive = kill_at_operation(folder, kind, generator.randint(1, 100))
            else:
                alive = kill_at_time(folder, kind, generator.uniform(0, SECONDS))
            killed += alive
            if not alive:
                break
        finish(folder, kind)
        assert_same(folder, whole_of(kind))
