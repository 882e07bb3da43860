"""Checks everything that a command asks for, then lets Hydra run it."""

import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.utils import env_override

from running import ExitCode, sentence
from running.processes import Stopped
from training import check_checkpoints, check_folder, hosts, make_folder, preflight
from training.attempts import report
from training.device import check_devices
from training.folder import CHECKPOINTS
from training.sweep import Sweep, SweepJob, jobs_of_search

from .composer import Composition
from .errors import ConfigError
from .folders import new_launch_id, register_resolvers
from .groups import Group, Planned, add_to_groups, check_vectorised, run_groups
from .instantiation import check_plugins
from .job import Job, planned_job
from .request import Refusal, Request
from .runner import JobRunner, Task
from .runs import build, run


def launch(request: Request | Refusal, task: Task = run) -> int:
    """Run `task` on every job of a command.

    A command that cannot be run is refused before Hydra starts, and so before a folder is made. A
    job that fails is reported, and the other jobs of its sweep are run.

    **Returns:** the exit code, see `running.ExitCode`; for a sweep, the worst of its jobs.
    """
    runner, sweep = JobRunner(task, debug=request.debug), None
    try:
        hosts.join()
        register_resolvers(hosts.broadcast(new_launch_id()))
        request, sweep, groups = hosts.call_on_all(lambda: _check(request))
        # Only now, when no process has refused: a command that is refused leaves no folder.
        hosts.call_on_all(lambda: hosts.is_first() and make_folder(_folder(request.composition)))
    except KeyboardInterrupt:
        hosts.announce_end(ExitCode.INTERRUPTED)
        return hosts.leave(ExitCode.INTERRUPTED)
    except Exception as error:
        report(error, debug=request.debug)
        return hosts.leave(ExitCode.BAD_CONFIGURATION)
    runs = functools.partial(
        request.composer.run, runner, request.composition.multirun, request.overrides
    )
    if any(len(group) > 1 for group in groups):
        runs = functools.partial(run_groups, groups, runner)
    code = _run(runs, debug=request.debug)
    try:
        # A single run ran in this process, so the runner has its exit code.
        codes = runner.attempts.codes if sweep is None else [sweep.end()]
    except KeyboardInterrupt:
        codes = [ExitCode.INTERRUPTED]
    return hosts.leave(max([code, *codes]))


def _check(request: Request | Refusal) -> tuple[Request, Sweep | None, list[Group]]:
    """Refuse jobs that cannot run.

    **Returns:** the request; the sweep, or None for a single run; the jobs, grouped by programs.
    """
    if isinstance(request, Refusal):
        raise request.error
    check_devices()
    composition = request.composition
    if composition.multirun and hosts.count() > 1:
        raise ConfigError(
            f"A sweep needs a single process, got {hosts.count()}. Start one job at a time with "
            "several processes, or the sweep with one process."
        )
    jobs = [planned_job(composed, multirun=composition.multirun) for composed in composition.jobs]
    if len({job.folder for job in jobs}) < len(jobs):
        raise ConfigError("`hydra.sweep.subdir` gives several jobs the same folder.")
    if composition.multirun:
        check_plugins(composition.jobs[0])
    if not composition.search:
        _check_distinct(jobs)
    groups: list[Group] = []
    for number, (job, composed) in enumerate(zip(jobs, composition.jobs, strict=True)):
        try:
            check_vectorised(job, composed, composition)
            if hosts.is_first():
                check_folder(job.folder, resume=job.resume)
                if job.resume:  # before this process calls what the stored configuration names
                    check_checkpoints(job.folder / CHECKPOINTS, job.config)
            run = build(job, shapes_only=True)
            if add_to_groups(Planned(number, job, run), groups):
                preflight(run)  # one run per group: the result is the same for all of them
        except Exception as error:
            if len(jobs) == 1:
                raise
            given = " ".join(job.overrides)
            raise ConfigError(f"The job `{given}`: {sentence(error)}") from error
    return request, _sweep(composition, jobs), groups


def _folder(composition: Composition) -> Path:
    """The folder of the run, or of the whole sweep."""
    hydra_config = composition.jobs[0].hydra
    return Path(hydra_config.sweep.dir if composition.multirun else hydra_config.run.dir)


def _check_distinct(jobs: Sequence[Job]) -> None:
    """Refuse a sweep with two equal jobs: the report would count these as two seeds."""
    seen: dict[str, int] = {}
    for number, job in enumerate(jobs):
        first = seen.setdefault(json.dumps(job.config, sort_keys=True, default=str), number)
        if first < number:
            raise ConfigError(
                f"The jobs #{first} and #{number} of the sweep are equal, "
                f"`{' '.join(job.overrides)}`. Remove one of them."
            )


def _sweep(composition: Composition, jobs: Sequence[Job]) -> Sweep | None:
    if not composition.multirun:
        return None
    folder = _folder(composition)
    if composition.search:
        swept = [each for each in composition.overrides if each.is_sweep_override()]
        keys = [override.key_or_group for override in swept]
        return Sweep(folder, lambda: jobs_of_search(folder, keys))
    return Sweep(folder, lambda: [SweepJob(job.overrides, job.folder) for job in jobs])


def _run(runs: Callable[[], None], *, debug: bool) -> int:
    """Let Hydra run the jobs; returns an exit code for errors outside of the jobs."""
    # The processes of jobs need the import path of this process, with absolute folders.
    environment = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    try:
        with env_override(environment):
            runs()
    except KeyboardInterrupt:
        hosts.announce_end(ExitCode.INTERRUPTED)
        return ExitCode.INTERRUPTED
    except Stopped as stopped:
        return stopped.code
    except Exception as error:
        report(error, debug=debug)
        return ExitCode.FAILED
    return ExitCode.FINISHED
