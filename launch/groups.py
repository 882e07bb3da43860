"""Finds the jobs of a sweep that one program can train, and runs them together."""

from collections.abc import Sequence
from typing import NamedTuple

from omegaconf import DictConfig

from training import Run, alike
from training.log import say
from training.progress import wide_console

from .composer import BASIC, Composition
from .errors import ConfigError
from .job import Job
from .runner import JobRunner

_SAME = "dataset", "x64", "debug", "compilation_cache"
"""Keys that must be equal in all jobs of one program, in addition to the parts of their runs."""


class Planned(NamedTuple):
    """A job of a sweep, and its run, whose arrays are shapes."""

    number: int
    job: Job
    run: Run


Group = list[Planned]
"""The jobs of one program."""


def check_vectorised(job: Job, composed: DictConfig, composition: Composition) -> None:
    """Check that a job with `vectorised=true` can be trained together with others.

    **Raises:** `ConfigError` if it cannot.
    """
    # Runs of earlier versions have no such key.
    if job.config.get("vectorised") is not True or job.resume:
        return
    if not composition.multirun:
        raise ConfigError(
            "`vectorised=true` trains the jobs of a sweep as one program. Add `-m` and several "
            "values of a key, such as `seed='range(0,16)'`."
        )
    choices = composed.hydra.runtime.choices
    if composition.search:
        raise ConfigError(
            "`vectorised=true` needs to know all jobs of a sweep before the first job starts. "
            f"Leave out `hydra/sweeper={choices['hydra/sweeper']}`."
        )
    launcher = choices["hydra/launcher"]
    if launcher != BASIC:
        raise ConfigError(
            "`vectorised=true` trains the jobs of a sweep in this process. Leave out "
            f"`hydra/launcher={launcher}`."
        )
    if job.config["devices"] not in (None, 1):
        raise ConfigError(
            f"`vectorised=true` trains on one device. Leave out `devices={job.config['devices']}`."
        )
    if job.chooses_micro_batch:
        raise ConfigError(
            "`micro_batch=auto` is chosen for a single run, but with `vectorised=true` several "
            "runs share the device. Give a number, or null."
        )


def add_to_groups(planned: Planned, groups: list[Group]) -> bool:
    """Add a job to the group of its program, or to a new group if there is none.

    A resumed job gets a group of its own: other jobs of its sweep may be at another step.

    **Returns:** whether the group is new.
    """
    for group in groups:
        if _can_share_program(planned, group[0]):
            group.append(planned)
            return False
    groups.append([planned])
    return True


def run_groups(groups: Sequence[Group], runner: JobRunner) -> None:
    """Run the jobs of a sweep, each group as one program; print its jobs unless quiet."""
    console = wide_console()
    for place, group in enumerate(groups, 1):
        numbers = " ".join(f"#{planned.number}" for planned in group)
        jobs = [planned.job for planned in group]
        given = " | ".join(" ".join(job.overrides) for job in jobs)
        if not group[0].run.settings.quiet:
            say(console, f"Program {place} of {len(groups)}, jobs {numbers}: {given}")
        runner.run(jobs)


def _can_share_program(one: Planned, other: Planned) -> bool:
    for job in (one.job, other.job):
        if job.resume or not job.config["vectorised"]:
            return False
    same = all(one.job.config.get(key) == other.job.config.get(key) for key in _SAME)
    return same and alike(one.run, other.run)
