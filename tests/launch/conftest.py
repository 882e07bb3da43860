import dataclasses
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
from omegaconf import DictConfig

from launch.command import parse
from launch.composer import Composer
from launch.folders import register_resolvers
from launch.launcher import launch
from launch.request import read
from launch.runs import run as train_job
from running import ExitCode


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def made(self) -> list[Path]:
        """Everything that lies in the folder where the command ran."""
        return sorted(self.folder.rglob("*"))


@pytest.fixture
def train(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """`train(*arguments)` is `python train.py *arguments` in an empty folder, in this process.

    With `task=` another function takes the place of the training, and no step is traced to see
    whether it fits.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])  # `--config-dir` adds to it
    # Configuring logging closes all handlers there are, and absl's closes pytest's stderr with it.
    monkeypatch.setattr(logging, "shutdown", lambda handlers: None)
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: str, task: Callable[[DictConfig], dict] | None = None) -> Done:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capsys.readouterr()
        with monkeypatch.context() as patch:
            if task is not None:
                patch.setattr("launch.launcher.preflight", lambda run: None)
            code = read(arguments)
            if not isinstance(code, ExitCode):
                code = launch(code, task or train_job)
        return Done(code, *capsys.readouterr(), tmp_path)

    yield run
    # Hydra installs its own handlers, on a stream that is closed now.
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def compose() -> Callable[..., DictConfig]:
    """`compose(*overrides)` is the configuration of that command, with its `hydra` node."""
    register_resolvers("launch")
    composer = Composer(parse([]))
    return lambda *overrides: composer.compose(list(overrides))
