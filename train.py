"""Train a model, or a sweep of them: `python train.py --help` lists what can be chosen."""

import sys

from omegaconf import DictConfig

from launch import build, current_job, launch
from training import Summary, train


def run(config: DictConfig) -> Summary:
    """One job, from Hydra's configuration to the summary of the run."""
    job = current_job(config)
    return train(build(job), job.folder, resume=job.resume)


if __name__ == "__main__":
    sys.exit(launch(run))
