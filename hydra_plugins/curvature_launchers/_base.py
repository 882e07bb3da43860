import abc
import json
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from running import SUMMARY, final_loss


class AbstractProcessLauncher(Launcher):
    """Runs jobs in other processes, and reads their results from their folders."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs.

        **Returns:** the result of each job, for the sweeper. The list is empty for Hydra's own
        sweeper, which does not use it.
        """
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        Path(self._config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        self.run(job_overrides, initial_job_idx)
        if self._config.hydra.runtime.choices["hydra/sweeper"] == "basic":
            return []
        return [
            self._result(number, overrides)
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]

    @abc.abstractmethod
    def run(self, job_overrides: Sequence[Sequence[str]], first: int) -> None:
        """Run all jobs, numbered from `first`, and wait for each, however it ends."""

    def _result(self, number: int, overrides: Sequence[str]) -> JobReturn:
        job = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        with open_dict(job.hydra.job):
            job.hydra.job.num = number
        summary = Path(job.hydra.sweep.dir) / str(job.hydra.sweep.subdir) / SUMMARY
        result = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        if summary.is_file():
            result.return_value = final_loss(json.loads(summary.read_text(encoding="utf-8")))
        return result
