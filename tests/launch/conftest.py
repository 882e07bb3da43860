import dataclasses
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import pytest
from omegaconf import DictConfig

from launch.command import parse
from launch.composer import Composer
from launch.folders import register_resolvers
from launch.job import Job
from launch.launcher import launch
from launch.request import read
from launch.runs import run as train_jobs
from running import ExitCode


@dataclasses.dataclass(frozen=True)
class Done:
    """The exit code and the output of a command, and the folder where it ran."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def made(self) -> list[Path]:
        """All files and folders below the folder where the command ran."""
        return sorted(self.folder.rglob("*"))


@pytest.fixture
def train(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """`train(*arguments)` runs `python train.py *arguments` in this process, in an empty folder.

    With `task=`, this function of a job is called instead of the training, and `preflight` is
    skipped.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])  # `--config-dir` adds to it
    # Hydra's logging setup closes all handlers, and absl's handler would close pytest's stderr.
    monkeypatch.setattr(logging, "shutdown", lambda handlers: None)
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: str, task: Callable[[Job], Mapping[str, Any]] | None = None) -> Done:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capsys.readouterr()
        with monkeypatch.context() as patch:
            if task is not None:
                patch.setattr("launch.launcher.preflight", lambda run: None)
            code = read(arguments)
            if not isinstance(code, ExitCode):
                code = launch(code, (lambda jobs: [*map(task, jobs)]) if task else train_jobs)
        return Done(code, *capsys.readouterr(), tmp_path)

    yield run
    # Hydra has installed its own handlers, whose stream is closed now.
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def compose() -> Callable[..., DictConfig]:
    """`compose(*overrides)` is the configuration of this command, including its `hydra` node."""
    register_resolvers("launch")
    composer = Composer(parse([]))
    return lambda *overrides: composer.compose(list(overrides))
