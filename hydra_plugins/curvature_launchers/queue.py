"""Jobs by submitit: on SLURM, or in the same manner on this machine."""

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import filter_overrides

from launch.errors import ConfigError

from ._base import AbstractProcessLauncher

log = logging.getLogger(__name__)

NO_SLURM = (
    "`hydra/launcher=slurm` needs `sbatch`, which is not installed on this machine. Start the "
    "sweep on a machine with SLURM, or test it with `hydra/launcher=local`."
)

SEVERAL_TASKS = (
    "`hydra.launcher.nodes` and `hydra.launcher.tasks_per_node` give each job {} processes, but "
    "a job of a sweep is one process. Start a run of several processes with `srun`, one run at "
    "a time."
)


class QueueLauncher(AbstractProcessLauncher):
    """Submits all jobs to a queue at once, and waits for all of them.

    The jobs are those of Hydra's launcher for submitit. That launcher collects the results of its
    jobs, and stops waiting for the others if one has died.

    **Arguments:**

    - `executor`: submitit's, `slurm` or `local`.
    - `submitit_folder`: for the files of submitit, which include the output of the jobs.
    - `parameters`: of the queue, named as in Hydra's launcher for submitit.
    """

    def __init__(self, executor: str, submitit_folder: str, **parameters: Any):
        from hydra_plugins.hydra_submitit_launcher import submitit_launcher
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        kinds = {"slurm": submitit_launcher.SlurmLauncher, "local": submitit_launcher.LocalLauncher}
        if executor not in kinds:
            raise ConfigError(f"`hydra.launcher.executor` must be slurm or local, got {executor}.")
        tasks = (parameters.get("nodes") or 1) * (parameters.get("tasks_per_node") or 1)
        if tasks > 1:
            raise ConfigError(SEVERAL_TASKS.format(tasks))
        if executor == "slurm" and shutil.which("sbatch") is None:
            raise ConfigError(NO_SLURM)
        shared = {field.name for field in dataclasses.fields(BaseQueueConf)}
        self._executor, self._folder = executor, submitit_folder
        self._parameters = {
            name if name in shared else f"{executor}_{name}": value
            for name, value in parameters.items()
            if value is not None
        }
        # The function that runs in a job. If the queue preempts the job, submitit submits it again.
        self._job = kinds[executor](**parameters)

    def run(self, job_overrides: Sequence[Sequence[str]], first: int) -> None:
        import submitit

        self._job.setup(hydra_context=self._context, task_function=self._task, config=self._config)
        executor = submitit.AutoExecutor(self._folder, cluster=self._executor)
        executor.update_parameters(**self._parameters)
        state = Singleton.get_state()
        arguments = [
            (list(overrides), "hydra.sweep.dir", number, "", state)
            for number, overrides in enumerate(job_overrides, first)
        ]
        jobs = executor.map_array(self._job, *zip(*arguments, strict=True))
        log.info(f"Launched {len(jobs)} jobs by submitit ({self._executor}): {self._folder}")
        for job, (overrides, _, number, _, _) in zip(jobs, arguments, strict=True):
            log.info(f"\t#{number} : {' '.join(filter_overrides(overrides))} : {job.job_id}")
        for number, job in enumerate(jobs, first):
            # `exception` waits for the job, and briefly for its files on a network file system.
            if job.exception() is not None:
                log.info(f"\t#{number} : no result ({job.state})")
