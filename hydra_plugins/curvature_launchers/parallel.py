"""Parallel jobs on this machine, each in a process of its own."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton

from launch.errors import ConfigError
from running.processes import run_processes

from ._base import AbstractProcessLauncher

LOGS = "logs"


class ParallelLauncher(AbstractProcessLauncher):
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

    def run(self, job_overrides: Sequence[Sequence[str]], first: int) -> None:
        """**Raises:** `running.processes.Stopped` after a stop signal, when all jobs have ended."""
        from joblib.externals.loky.backend.process import LokyProcess

        logs = Path(self._config.hydra.sweep.dir) / LOGS
        logs.mkdir(exist_ok=True)
        shared = self._context, self._config, self._task, Singleton.get_state()
        run_processes(
            [
                LokyProcess(
                    target=_run_job,
                    name=f"#{number} : {' '.join(overrides)}",
                    args=(logs / f"{number}.log", self._execute_job, number, overrides, *shared),
                )
                for number, overrides in enumerate(job_overrides, first)
            ],
            self.at_once,
        )


def _run_job(log: Path, execute_job: Any, *arguments: Any) -> None:
    """The function that the process of a job runs."""
    # The terminal sends Ctrl-C to its whole process group. In a group of its own, the job gets the
    # signal only once, from the launcher.
    os.setpgrp()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    execute_job(*arguments)
