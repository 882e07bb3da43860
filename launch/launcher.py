"""Checks everything that a command asks for, then lets Hydra run it."""

import functools
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.utils import env_override

from training import ExitCode, check_folder, hosts, make_folder, preflight

from . import command as command_line
from .composer import CONFIG_NAME, CONFIG_PATH, VERSION_BASE, Composer, Composition
from .errors import ConfigError, Stopped, report, sentence
from .explain import compose
from .folders import new_launch_id, register_resolvers
from .groups import Group, Planned, check_vectorised, put, run_groups
from .instantiation import check_launcher
from .job import planned_job
from .runner import JobRunner, Task
from .runs import build
from .sweep import Sweep, SweepJob
from .unused import refuse_unused


def launch(task: Task) -> int:
    """Run `task` on every job that the command line (`sys.argv`) asks for.

    What cannot be run is refused before Hydra starts, and so before a folder is made. A job that
    fails is reported, and the other jobs of its sweep are run.

    **Returns:** the exit code, as `training.ExitCode` names them; of a sweep the worst.
    """
    debug = command_line.wants_debug(sys.argv[1:])
    runner, sweep = JobRunner(task, debug=debug), None
    try:
        if not command_line.asks(sys.argv[1:]):
            hosts.join()
        sys.argv[1:] = hosts.together(lambda: command_line.without_quiet(sys.argv[1:]))
        command = command_line.parse(sys.argv[1:])
        command_line.make_importable(command)
        if command_line.is_question(command):
            register_resolvers(new_launch_id())
            run = hydra.main(str(CONFIG_PATH), CONFIG_NAME, VERSION_BASE)(runner)
        else:
            register_resolvers(hosts.of_first(new_launch_id()))
            composer = Composer(command)
            composition, sweep, groups = hosts.together(lambda: _checked(command, composer))
            run = functools.partial(composer.run, runner, composition.multirun, command.overrides)
            if any(len(group) > 1 for group in groups):
                run = functools.partial(run_groups, groups, runner)
    except KeyboardInterrupt:
        return hosts.leave(ExitCode.INTERRUPTED)
    except Exception as error:
        report(error, debug=debug)
        return hosts.leave(ExitCode.BAD_CONFIGURATION)
    code = _run(run, debug=debug)
    # A single run is one of this process, and the runner knows how it ended.
    codes = runner.codes if sweep is None else [sweep.end()]
    return hosts.leave(max([code, *codes]))


def _checked(
    command: Namespace, composer: Composer
) -> tuple[Composition, Sweep | None, list[Group]]:
    composition = compose(composer, command.overrides, multirun=command.multirun)
    return composition, *_check(composition, composer)


def _check(composition: Composition, composer: Composer) -> tuple[Sweep | None, list[Group]]:
    """Refuse what cannot be run; make the launch's folder as the last thing that may fail.

    **Returns:** the sweep, if it is one, and the jobs by programs.
    """
    if composition.multirun and hosts.count() > 1:
        raise ConfigError(
            f"A sweep runs its jobs in one process, and there are {hosts.count()}: start one job "
            "at a time with several processes, or the sweep with one."
        )
    refuse_unused(composition, composer)
    jobs = [planned_job(composed, multirun=composition.multirun) for composed in composition.jobs]
    if len({job.folder for job in jobs}) < len(jobs):
        raise ConfigError("`hydra.sweep.subdir` gives several jobs the same folder.")
    if composition.multirun:
        check_launcher(composition.jobs[0])
    overrides = [list(composed.hydra.overrides.task) for composed in composition.jobs]
    groups: list[Group] = []
    for number, (job, composed, given) in enumerate(
        zip(jobs, composition.jobs, overrides, strict=True)
    ):
        try:
            check_vectorised(job, composed, multirun=composition.multirun)
            if hosts.is_first():
                check_folder(job.folder, resume=job.resume)
            run = build(job, shapes_only=True)
            if put(Planned(number, given, job, run), groups):
                preflight(run)  # of its group, one says all
        except Exception as error:
            if len(jobs) == 1:
                raise
            raise ConfigError(f"The job `{' '.join(given)}`: {sentence(error)}") from error
    hydra_config = composition.jobs[0].hydra
    folder = Path(hydra_config.sweep.dir if composition.multirun else hydra_config.run.dir)
    if hosts.is_first():
        make_folder(folder)
    if not composition.multirun:
        return None, groups
    planned = zip(overrides, jobs, strict=True)
    return Sweep(folder, [SweepJob(given, job.folder) for given, job in planned]), groups


def _run(run: Callable[[], None], *, debug: bool) -> int:
    """Let Hydra run the jobs; returns the exit code for what befell it beside them."""
    # The processes of jobs import what this one does, wherever it was started.
    environment = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    try:
        with env_override(environment):
            run()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Stopped as stopped:
        return stopped.code
    except Exception as error:
        report(error, debug=debug)
        return ExitCode.FAILED
    return ExitCode.FINISHED
