"""Trains a run, and writes its folder of results."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from running import ExitCode, HostsError, StopSignals

from . import folder as files, hosts
from ._base import Run
from .agreement import Agreement
from .atomic import remove_leftovers
from .clock import Time
from .cost import Cost, cost_of
from .feed import AbstractFeed, source_of
from .log import Log
from .loop import Loop
from .mesh import ON_ONE_DEVICE, Placement, placement
from .preflight import Found, describe_run, memory_warning, preflight
from .profile import Profile
from .program import AbstractProgram, SingleRun
from .records import Records
from .sources import batch_shapes, evaluator_of
from .stepper import Stepper
from .summary import Outcome, Summary
from .writer import Writer


def train(run: Run, folder: Path, *, resume: bool = False) -> Summary:
    """Train, evaluate, and write all results to `folder`.

    With several processes (see `hosts`), all of them call it, and the first writes.

    Ctrl-C, a signal of the scheduler and a run that diverges are outcomes, not exceptions;
    see `Summary.status` and `Summary.exit_code`.

    **Arguments:**

    - `run`: what to train.
    - `folder`: gets `config.yaml`, `provenance.json`, `metrics.jsonl`, `train.log`, `checkpoints/`,
        `model.eqx`, `summary.json`, and what the recorders write.
    - `resume`: continue the run in `folder` from its newest valid checkpoint, bit for bit as if it
        had not stopped; without a checkpoint, from the beginning.

    **Returns:** the summary, which is also in `folder/summary.json` (there NaN is null).

    **Raises:** `ValueError`, before anything is written, for a run that cannot work, for a folder
    that cannot be used, and if there are checkpoints but none is usable. An exception in a step is
    raised again, after a summary with the status `failed` was written. `FolderError` if the folder
    cannot be written to.
    """
    resume = hosts.broadcast(resume)
    placed = hosts.call_on_all(lambda: placement(run.settings.devices, run.settings.sharding))
    with placed.context(), contextlib.ExitStack() as stack:
        found = hosts.call_on_all(lambda: _check(run, folder, resume=resume))
        batch = batch_shapes(run.dataset, run.model, run.settings.batch_size)
        (data, draw), state = source_of(run, placed), run.optimiser.init(run.model, batch=batch)
        stepper = Stepper(run.optimiser, run.model, state, data, run.settings.seed, draw, placed)
        evaluator = evaluator_of(run.dataset, run.optimiser.objective, placed)
        possessing = lock_folder(folder, resume=resume)
        records = hosts.call_on_all(lambda: stack.enter_context(possessing))
        log = stack.enter_context(Log(quiet=run.settings.quiet))
        writer = Writer(run, folder, stepper, evaluator, records, log, resume=resume)
        (summary,) = run_program(SingleRun(stepper), [writer], found, placed)
    return summary


def run_program(
    program: AbstractProgram,
    writers: Sequence[Writer],
    found: Found,
    placed: Placement = ON_ONE_DEVICE,
) -> list[Summary]:
    """Train the runs of `program` to their ends.

    **Arguments:** `writers`: one for each run; `found`: the result of `preflight`, the same for all
    runs; `placed`: the devices.

    **Returns, raises:** as `train`.
    """
    first = writers[0]
    with StopSignals() as stop:
        try:
            for writer in writers:
                plan = describe_run(writer.run, found, len(writers))
                writer.begin(plan, memory_warning(writer.run, found))
            profiled = first.run.settings.profile_steps if hosts.is_first() else None
            profile = Profile(first.folder, profiled, first.run.total_steps)

            def is_stopped() -> bool:
                # Several processes must stop after the same step, so none may leave the wait.
                return stop.received is not None and hosts.count() == 1

            with contextlib.ExitStack() as stack:
                feeds = [
                    stack.enter_context(writer.open_feed(placed, is_stopped)) for writer in writers
                ]
                for writer in writers:
                    stack.enter_context(writer.open_display())
                cost = _compile(program, feeds, writers, placed)
                agreement = Agreement(placed)
                outcome = Loop(program, feeds, writers, cost, profile, stop, agreement)()
            for writer in writers:
                if writer.summary is None:
                    writer.end(outcome)
        except KeyboardInterrupt:
            hosts.announce_end(ExitCode.INTERRUPTED)
            reason = "Stopped by Ctrl-C before the current step or evaluation was finished."
            for writer in writers:
                writer.abort(Outcome("interrupted", ExitCode.INTERRUPTED, reason))
        except Exception as error:
            for writer in writers:
                with contextlib.suppress(OSError):  # a full disk: `error` reports it already
                    reason = _reason(error, writer.folder)
                    writer.abort(Outcome("failed", ExitCode.FAILED, reason))
                writer.end_recorders()
            if isinstance(error, OSError):
                raise files.FolderError(_reason(error, first.folder)) from error
            if hosts.is_failure_of_another(error):
                raise HostsError(hosts.DIED) from error
            raise
    return [writer.close() for writer in writers]


def _check(run: Run, folder: Path, *, resume: bool) -> Found:
    found = preflight(run)
    if hosts.is_first():
        files.check_folder(folder, resume=resume)
    return found


@contextlib.contextmanager
def lock_folder(folder: Path, *, resume: bool) -> Iterator[Records]:
    """Lock the folder by its records, and remove the temporary files of a killed process.

    With several processes, only the first does this; the records of the others are discarded.
    """
    if not hosts.is_first():
        records = Records.nowhere()
    elif resume:
        records = Records.reopen(folder / files.METRICS)
        remove_leftovers(folder)
    else:
        files.make_folder(folder)
        records = Records.create(folder / files.METRICS)
    with records:
        yield records


def _compile(
    program: AbstractProgram,
    feeds: Sequence[AbstractFeed],
    writers: Sequence[Writer],
    placed: Placement,
) -> Cost:
    """Compile the step and return its cost; the time is divided evenly among the runs."""
    began = Time.now()
    program.compile(feeds[0].shapes)
    spent = (Time.now() - began).over(len(writers))
    for writer in writers:
        writer.tally.compiled(spent)
    counted = {"devices": placed.size, "runs": program.counted_runs}
    return cost_of(writers[0].run, program.compiled, solves=program.solves, **counted)


def _reason(error: Exception, folder: Path) -> str:
    """Why the run failed, in one line; with a remedy if the folder cannot be written to."""
    if isinstance(error, OSError):
        return (
            f"Cannot write to the run folder `{folder}`: {error.strerror or error}. The files in "
            f"it are intact. Fix the cause, then continue with `resume={folder}`."
        )
    if hosts.is_failure_of_another(error):
        return hosts.DIED
    return str(error).partition("\n")[0] or type(error).__name__
