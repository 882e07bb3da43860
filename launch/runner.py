"""The function that Hydra calls for each job, in this process or in another."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from running import final_loss
from training.attempts import Attempts

from .job import Job, current_job

Task = Callable[[Sequence[Job]], Sequence[Mapping[str, Any]]]
"""Runs jobs as one program, and returns their summaries."""


class JobRunner:
    """Runs a task on jobs, and keeps how they ended, see `Attempts`.

    **Arguments:** `task`; `debug`: show tracebacks, too.
    """

    def __init__(self, task: Task, *, debug: bool):
        self._task, self.attempts = task, Attempts(debug=debug)

    def __call__(self, config: DictConfig) -> float | None:
        """Run the job that Hydra is running now.

        **Returns:** the loss that a searching sweeper minimises, see `final_loss`.
        """
        folder = Path(HydraConfig.get().runtime.output_dir)
        summaries = self.attempts.run([folder], lambda: self._task([current_job(config)]))
        if summaries is None:
            _remove_if_empty(folder)
            return None
        return final_loss(summaries[0])

    def run(self, jobs: Sequence[Job]) -> None:
        """Run jobs of one program."""
        self.attempts.run([job.folder for job in jobs], lambda: self._task(jobs))


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder that Hydra has just made: only jobs that were started have a folder."""
    if not any(folder.iterdir()):
        folder.rmdir()
