"""Checks everything that a command asks for, then lets Hydra run it."""

import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from training import ExitCode, check_folder, make_folder, preflight

from . import command as command_line
from .composer import CONFIG_NAME, CONFIG_PATH, VERSION_BASE, Composer, Composition
from .errors import ConfigError, report, sentence
from .explain import compose
from .folders import launch_id, register_resolvers
from .job import Job, planned_job
from .runs import build
from .unused import refuse_unused

Task = Callable[[DictConfig], Mapping[str, Any]]


def launch(task: Task) -> int:
    """Run `task` on every job that the command line (`sys.argv`) asks for.

    What cannot be run is refused before Hydra starts, and so before a folder is made. A job that
    fails is reported, and the other jobs of its sweep are run.

    **Returns:** the exit code, as `training.ExitCode` names them; of a sweep the worst.
    """
    launch_id.cache_clear()
    register_resolvers()
    debug = command_line.wants_debug(sys.argv[1:])
    try:
        sys.argv[1:] = command_line.without_quiet(sys.argv[1:])
        command = command_line.parse(sys.argv[1:])
        command_line.make_importable(command)
        if not command_line.is_question(command):
            composer = Composer(command)
            _check(compose(composer, command.overrides, multirun=command.multirun), composer)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        report(error, debug=debug)
        return ExitCode.BAD_CONFIGURATION
    return _run(task, debug=debug)


def _check(composition: Composition, composer: Composer) -> None:
    """Refuse what cannot be run; make the launch's folder as the last thing that may fail."""
    refuse_unused(composition, composer)
    jobs = [planned_job(composed, multirun=composition.multirun) for composed in composition.jobs]
    if len({job.folder for job in jobs}) < len(jobs):
        raise ConfigError("`hydra.sweep.subdir` gives several jobs the same folder.")
    for job, composed in zip(jobs, composition.jobs, strict=True):
        try:
            _check_job(job)
        except Exception as error:
            if len(jobs) == 1:
                raise
            overrides = " ".join(composed.hydra.overrides.task)
            raise ConfigError(f"The job `{overrides}`: {sentence(error)}") from error
    hydra_config = composition.jobs[0].hydra
    make_folder(Path(hydra_config.sweep.dir if composition.multirun else hydra_config.run.dir))


def _check_job(job: Job) -> None:
    check_folder(job.folder, resume=job.resume)
    preflight(build(job, shapes_only=True))


def _run(task: Task, *, debug: bool) -> int:
    codes: list[int] = []

    def run_job(config: DictConfig) -> Mapping[str, Any]:
        if _stopping(codes):
            return {"status": "not started"}
        try:
            summary = task(config)
        except Exception as error:
            summary = _failed(error, debug=debug)
        codes.append(summary["exit_code"])
        return summary

    decorate = hydra.main(str(CONFIG_PATH), CONFIG_NAME, VERSION_BASE)
    try:
        decorate(run_job)()
    except KeyboardInterrupt:
        codes.append(ExitCode.INTERRUPTED)
    return max(codes, default=ExitCode.FINISHED)


def _stopping(codes: list[int]) -> bool:
    return any(code in (ExitCode.RESUMABLE, ExitCode.INTERRUPTED) for code in codes)


def _failed(error: Exception, *, debug: bool) -> dict[str, Any]:
    """The summary of a job that raised: one line here, the traceback in its folder."""
    report(error, debug=debug)
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "error.log").write_text("".join(traceback.format_exception(error)))
    return {"status": "failed", "exit_code": ExitCode.FAILED, "reason": sentence(error)}
