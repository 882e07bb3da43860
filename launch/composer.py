"""Composes configurations, and lets Hydra run what was composed."""

import argparse
import copy
import dataclasses
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime, setup_globals
from hydra.types import RunMode, TaskFunction
from omegaconf import Container, DictConfig, open_dict

from .errors import ConfigError

CONFIG_PATH = Path(__file__).resolve().parent.parent / "conf"
CONFIG_NAME = "config"
VERSION_BASE = "1.3"
_TASK = "train"


@dataclasses.dataclass(frozen=True)
class Composition:
    """What one command asks for.

    **Arguments:**

    - `jobs`: one composed configuration per job, each with its `hydra` node.
    - `overrides`: the overrides of the whole command, sweeps unexpanded.
    - `multirun`: whether Hydra will run the jobs as a sweep.
    """

    jobs: list[DictConfig]
    overrides: list[Override]
    multirun: bool


class _Loader(ConfigLoaderImpl):
    """Hydra's loader, with a memory: what was checked is not composed again to be run."""

    def __init__(self, search_path: ConfigSearchPath):
        super().__init__(search_path)
        self._composed: dict[Any, DictConfig] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        asked = config_name, tuple(overrides), run_mode, from_shell, validate_sweep_overrides
        if asked not in self._composed:
            self._composed[asked] = super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        return copy.deepcopy(self._composed[asked])

    def __getstate__(self) -> dict[str, Any]:
        # A launcher sends the loader to the process of every job, which composes its own alone.
        return {**self.__dict__, "_composed": {}}


class Composer:
    """Hydra, on the search path that the command asks for."""

    def __init__(self, command: argparse.Namespace):
        self._name = command.config_name or CONFIG_NAME
        path = CONFIG_PATH.parent / command.config_path if command.config_path else CONFIG_PATH
        search_path = create_config_search_path(str(path))
        if command.config_dir is not None:
            folder = Path(command.config_dir).resolve()
            if not folder.is_dir():
                raise ConfigError(f"`--config-dir` must be a folder, got `{command.config_dir}`.")
            before_schema = SearchPathQuery(provider="schema")
            search_path.prepend("command-line", f"file://{folder}", before_schema)
        version.setbase(VERSION_BASE)
        setup_globals()
        JobRuntime.instance().set("name", _TASK)
        self._loader = _Loader(search_path)

    def compose(self, overrides: list[str]) -> DictConfig:
        """The configuration of one run, interpolations unresolved, with its `hydra` node."""
        return self._loader.load_configuration(self._name, overrides, RunMode.RUN)

    def composition(self, overrides: list[str], *, multirun: bool) -> Composition:
        """Every job of the command, a sweep expanded by the sweeper's own code."""
        parsed = self.parse(overrides)
        swept = any(override.is_sweep_override() for override in parsed)
        mode = RunMode.MULTIRUN if multirun or swept else RunMode.RUN
        master = self._loader.load_configuration(self._name, overrides, mode)
        if not multirun and master.hydra.mode != RunMode.MULTIRUN:
            # Where something is swept nevertheless, composing it as one run says so.
            return Composition([self.compose(overrides) if swept else master], parsed, False)
        params = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
        parsed = self.parse([*params, *overrides])
        for override in parsed:
            if override.is_discrete_sweep() and not list(override.sweep_iterator()):
                raise ConfigError(f"`{override.input_line}` sweeps over nothing.")
        (expanded,) = BasicSweeper.split_arguments(
            [override for override in parsed if not override.is_hydra_override()],
            max_batch_size=None,
        )
        jobs = []
        for number, job_overrides in enumerate(expanded):
            job = self._loader.load_sweep_config(master, job_overrides)
            with open_dict(job.hydra.job):
                job.hydra.job.num = number
                job.hydra.job.id = number
            jobs.append(job)
        return Composition(jobs, parsed, True)

    def run(self, task: TaskFunction, multirun: bool, overrides: list[str]) -> None:
        """Let Hydra run the jobs of a composition, as `hydra.main` would."""
        hydra = Hydra(task_name=_TASK, config_loader=self._loader)
        GlobalHydra.instance().initialize(hydra)
        try:
            (hydra.multirun if multirun else hydra.run)(self._name, task, overrides)
        finally:
            GlobalHydra.instance().clear()

    def parse(self, overrides: list[str]) -> list[Override]:
        """The overrides, read by Hydra's grammar."""
        return OverridesParser.create(self._loader).parse_overrides(overrides)

    def options(self, group: str) -> list[str]:
        """The names that `group=` may take; empty when there is no such group."""
        return self._loader.get_group_options(group)

    def load(self, group: str, option: str) -> Container:
        """One file of a group, as it is written; `option` is one of its `options`."""
        result = self._loader.repository.load_config(f"{group}/{option}")
        assert result is not None
        return result.config
