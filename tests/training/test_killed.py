"""A run resumed after a kill or a full disk ends like an uninterrupted run, bit for bit."""

import functools
import json
import multiprocessing
import os
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.selection import slow_but
from tests.training.killed_child import STEPS, run, train_to_be_killed
from tests.training.streams import KINDS
from training import FolderError, train

SECONDS = 0.5
"""The latest time of a kill after the first step; all steps together take about twice as long."""

# Importing the modules takes longer than a run, so each run is a fork of one process that has
# imported them. That process has no backend of JAX, because a fork loses a backend's threads.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.training.killed_child", "sklearn.datasets", "grain"])


class Started:
    """A run in a new process, which compiles the same program as this process does."""

    def __init__(self, folder: Path, kind: str, event: int | None = None):
        receiver, said = FORKS.Pipe(duplex=False)
        self.said = os.fdopen(os.dup(receiver.fileno()), encoding="utf-8")
        self.process = FORKS.Process(target=train_to_be_killed, args=(folder, kind, event, said))
        self.process.start()
        for end in (receiver, said):
            end.close()

    def was_killed(self) -> bool:
        """Wait for the end of the process; returns whether it was killed."""
        with self.said:
            text = self.said.read()
        self.process.join()
        assert self.process.exitcode in (0, -signal.SIGKILL), text
        return self.process.exitcode != 0


def finish(folder: Path, kind: str = "memory") -> None:
    train(run(folder, kind), folder, resume=folder.exists())


def kill_at_time(folder: Path, kind: str, seconds: float) -> bool:
    """Kill the process `seconds` after its first step; returns whether it was still running."""
    started = Started(folder, kind)
    for line in started.said:
        if line.startswith("killed ") and "/" in line:  # the display has shown a step
            break
    started.process.join(seconds)
    started.process.kill()
    return started.was_killed()


def kill_at_operation(folder: Path, kind: str, number: int) -> bool:
    """Kill the process at operation `number` on its files; returns whether it got that far."""
    return Started(folder, kind, number).was_killed()


@pytest.fixture(scope="module")
def whole_of(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of an uninterrupted run on data of the given kind."""

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


@pytest.mark.parametrize("kind", slow_but(["memory"], ["memory", *KINDS]))
def test_a_run_that_is_killed_while_writing_a_checkpoint_can_be_resumed(kind, whole_of, tmp_path):
    """A checkpoint is written every few steps, and the thirtieth operation is on a checkpoint.

    A stream has the batches of the data in memory, so the final models are equal bit for bit.
    """
    assert kill_at_operation(tmp_path / "run", kind, 30)
    finish(tmp_path / "run", kind)
    assert_same(tmp_path / "run", whole_of(kind))
    in_memory = whole_of("memory") / "model.eqx"
    assert (tmp_path / "run" / "model.eqx").read_bytes() == in_memory.read_bytes()


def test_a_full_disk_is_one_sentence_and_the_run_can_be_resumed(whole_of, tmp_path):
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
def test_a_run_that_is_killed_at_random_moments_can_be_resumed(kind, whole_of, tmp_path):
    """The process is killed at random times and at random operations on its files, in turn."""
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
