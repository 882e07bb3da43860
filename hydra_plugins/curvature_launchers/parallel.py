"""Parallel jobs on this machine, each in a process of its own."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from launch.errors import ConfigError

from ._processes import run_processes
from ._returns import returns

LOGS = "logs"


class ParallelLauncher(Launcher):
    """Runs at most `n_jobs` jobs at once; −1: as many as there are cores to use.

    The jobs and the kind of their processes are those of Hydra's launcher for joblib. That launcher
    uses a pool of processes: if one process dies, the pool breaks, and all jobs are lost. Here each
    job has a process of its own, so a signal or a lack of memory ends only one job.

    The output of a job is written to `logs/<its number>.log` in the folder of the sweep.
    """

    def __init__(self, n_jobs: int):
        from hydra_plugins.hydra_joblib_launcher._core import execute_job
        from joblib import cpu_count

        if not isinstance(n_jobs, int) or (n_jobs < 1 and n_jobs != -1):
            raise ConfigError(
                f"`hydra.launcher.n_jobs` must be a positive integer, or -1, got {n_jobs}."
            )
        self.at_once = n_jobs if n_jobs > 0 else cpu_count()
        self._execute_job = execute_job

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._context, self._config, self._task = hydra_context, config, task_function

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; how they ended is in their folders.

        **Raises:** `launch.errors.Stopped` after a stop signal, when all running jobs have ended.
        """
        from joblib.externals.loky.backend.process import LokyProcess

        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        logs = Path(self._config.hydra.sweep.dir) / LOGS
        logs.mkdir(parents=True, exist_ok=True)
        shared = self._context, self._config, self._task, Singleton.get_state()
        run_processes(
            [
                LokyProcess(
                    target=_run_job,
                    name=f"#{number} : {' '.join(overrides)}",
                    args=(logs / f"{number}.log", self._execute_job, number, overrides, *shared),
                )
                for number, overrides in enumerate(job_overrides, initial_job_idx)
            ],
            self.at_once,
        )
        return returns(self._context, self._config, job_overrides, initial_job_idx)


def _run_job(log: Path, execute_job: Any, *arguments: Any) -> None:
    """The function that the process of a job runs."""
    # The terminal sends Ctrl-C to its whole process group. In a group of its own, the job gets the
    # signal only once, from the launcher.
    os.setpgrp()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    execute_job(*arguments)
