"""The results of jobs in other processes, for the sweeper."""

import json
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from running import SUMMARY, final_loss


def returns(
    context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """The result of each job, from the summary in its folder.

    The list is empty for Hydra's own sweeper, which does not use it.
    """
    if config.hydra.runtime.choices["hydra/sweeper"] == "basic":
        return []
    found = []
    for number, overrides in enumerate(job_overrides, first):
        job = context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(job.hydra.job):
            job.hydra.job.num = number
        summary = Path(job.hydra.sweep.dir) / str(job.hydra.sweep.subdir) / SUMMARY
        returned = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        if summary.is_file():
            returned.return_value = final_loss(json.loads(summary.read_text(encoding="utf-8")))
        found.append(returned)
    return found
