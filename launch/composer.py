"""Composes configurations, and lets Hydra run them."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, open_dict

from . import hydra_internals
from .errors import ConfigError
from .expansion import expand

CONFIG_PATH = Path(__file__).resolve().parent.parent / "conf"
CONFIG_NAME = "config"
VERSION_BASE = "1.3"
TASK = "train"
BASIC = "basic"
"""The name of Hydra's own sweeper, and of its own launcher."""


@dataclasses.dataclass(frozen=True)
class Composition:
    """The jobs that one command asks for.

    **Arguments:**

    - `jobs`: one composed configuration per job, each with its `hydra` node. The jobs of a search
        are not known in advance: then as many jobs as are needed for each value to occur in one.
    - `overrides`: the overrides of the whole command, sweeps unexpanded.
    - `multirun`: whether Hydra will run the jobs as a sweep.
    - `search`: whether the sweeper chooses the jobs during the sweep, as Optuna's does.
    """

    jobs: list[DictConfig]
    overrides: list[Override]
    multirun: bool
    search: bool = False


class Composer:
    """Composes with Hydra, on the search path that the command asks for."""

    def __init__(self, command: argparse.Namespace):
        self._name = command.config_name or CONFIG_NAME
        self._folders, self._added = [CONFIG_PATH], []
        if command.config_path is not None:
            self._folders = [CONFIG_PATH.parent / command.config_path]
        if command.config_dir is not None:
            folder = Path(command.config_dir).resolve()
            self._folders.append(folder)
            quoted = str(folder).replace("'", "\\'")
            self._added = [f"hydra.searchpath=['file://{quoted}']"]
        with self._hydra():
            self._loader = GlobalHydra.instance().config_loader()

    def compose(self, overrides: list[str]) -> DictConfig:
        """The configuration of one run, interpolations unresolved, with its `hydra` node."""
        return self._load(overrides, RunMode.RUN)

    def composition(self, overrides: list[str], *, multirun: bool) -> Composition:
        """All jobs of the command; a sweep is expanded into its jobs.

        **Raises:** `ConfigError` for several values without a sweep, and see `expand`; for the rest
        Hydra's own exceptions and those of its parts.
        """
        parsed = self.parse(overrides)
        swept = [override.input_line for override in parsed if override.is_sweep_override()]
        master = self._load(overrides, RunMode.MULTIRUN if multirun or swept else RunMode.RUN)
        if not multirun and master.hydra.mode != RunMode.MULTIRUN:
            if swept:
                raise ConfigError(
                    f"`{swept[0]}` gives several values: add `-m` to run one job for each, or "
                    "write a list as `key=[a,b]`."
                )
            return Composition([master], parsed, False)
        params = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
        parsed = self.parse([*params, *overrides])
        search = master.hydra.runtime.choices["hydra/sweeper"] != BASIC
        jobs = []
        for number, given in enumerate(expand(parsed, search=search)):
            job = self._loader.load_sweep_config(master, given)
            with open_dict(job.hydra.job):
                job.hydra.job.num = number
                job.hydra.job.id = number
            jobs.append(job)
        return Composition(jobs, parsed, True, search)

    def run(self, task: TaskFunction, multirun: bool, overrides: list[str]) -> None:
        """Let Hydra run the jobs of a composition."""
        with self._hydra():
            given = [*self._added, *overrides]
            hydra_internals.run(self._name, task, given, multirun=multirun)

    def parse(self, overrides: list[str]) -> list[Override]:
        """The overrides, read by Hydra's grammar."""
        return OverridesParser.create(self._loader).parse_overrides(overrides)

    def options(self, group: str) -> list[str]:
        """The options of `group=`; empty if there is no such group."""
        return self._loader.get_group_options(group, None, self._name, self._added)

    def default(self, group: str) -> str | None:
        """The option of `group=` if no override chooses one."""
        return self.compose([]).hydra.runtime.choices.get(group)

    def load(self, group: str, option: str) -> Any:
        """One file of a group, uncomposed; None if no folder of this project has the option."""
        for folder in self._folders:
            if (file := folder / group / f"{option}.yaml").is_file():
                return yaml.safe_load(file.read_text(encoding="utf-8"))
        return None

    def _load(self, overrides: list[str], mode: RunMode) -> DictConfig:
        return self._loader.load_configuration(self._name, [*self._added, *overrides], mode)

    def _hydra(self) -> initialize_config_dir:
        path = str(self._folders[0])
        return initialize_config_dir(path, job_name=TASK, version_base=VERSION_BASE)
