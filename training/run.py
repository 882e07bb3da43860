"""One training run, from a built model to its folder of results."""

import contextlib
import functools
import time
from pathlib import Path

from . import folder as files
from ._base import Run as Run, Tally
from .atomic import remove_leftovers
from .checkpoint import Checkpoints
from .cost import cost_of
from .digest import digest_of_config
from .evaluate import AbstractEvaluator
from .exit_codes import ExitCode
from .feed import AbstractFeed, feed_of
from .log import Log
from .loop import Loop, Outputs
from .machine import versions
from .mesh import Placement, placement
from .preflight import in_one_line, preflight, too_much
from .profile import Profile
from .progress import progress, report
from .provenance import write_provenance
from .recorders import Guarded
from .records import Records
from .settings import CHANGEABLE
from .signals import StopSignals
from .sources import batch_shapes, evaluator_of, source
from .stepper import Stepper
from .summary import Outcome, Summary, summarise


def train(run: Run, folder: Path, *, resume: bool = False) -> Summary:
    """Train, evaluate, and leave everything in `folder`.

    Ctrl-C, a signal of the scheduler and a run that diverges are outcomes, not exceptions;
    see `Summary.status` and `Summary.exit_code`.

    **Arguments:**

    - `run`: what to train.
    - `folder`: gets `config.yaml`, `provenance.json`, `metrics.jsonl`, `train.log`, `checkpoints/`,
        `model.eqx`, `summary.json`, and what the recorders write.
    - `resume`: continue the run in `folder` at its newest checkpoint that is good, bit for bit as
        if it had not stopped; without a checkpoint, from the beginning.

    **Returns:** the summary, which is also in `folder/summary.json` (there NaN is null).

    **Raises:** `ValueError`, with nothing written, for a run that cannot work, a folder that
    cannot be used, or checkpoints none of which can be. What a step raises is raised again, after a
    summary with the status `failed`; `FolderError` where the folder takes no more.
    """
    placed = placement(run.settings.devices, run.settings.sharding)
    with placed.context():
        return _train(run, folder, placed, resume=resume)


def _train(run: Run, folder: Path, placed: Placement, *, resume: bool) -> Summary:
    found = preflight(run)
    files.check_folder(folder, resume=resume)
    batch = batch_shapes(run.dataset, run.model, run.settings.batch_size)
    (data, draw), state = source(run.dataset), run.optimiser.init(run.model, batch=batch)
    stepper = Stepper(run.optimiser, run.model, state, data, run.settings.seed, draw, placed)
    evaluator = evaluator_of(run.dataset, run.optimiser.objective, placed)
    with _possessed(folder, resume=resume) as records, Log(quiet=run.settings.quiet) as log:
        recorders = Guarded(run.recorders, log)
        checkpoints = Checkpoints(
            folder / files.CHECKPOINTS,
            digest_of_config(run.config, but=CHANGEABLE),
            versions(),
            run.settings.keep_checkpoints,
        )
        log.open(folder)
        tally = _restored(checkpoints, stepper, log) if resume else Tally()
        with StopSignals() as stop:
            try:
                if resume:
                    records.rewind(tally.steps)
                files.write_config(folder, run.config)
                write_provenance(folder)
                log.say(in_one_line(run, found))
                if warning := too_much(run, found):
                    log.warn(warning)
                recorders.tell(lambda recorder: recorder.begin(folder, run.config, tally.steps))
                profile = Profile(folder, run.settings.profile_steps, run.total_steps)
                feed = feed_of(run, placed, tally, lambda: stop.received is not None, log.warn)
                with progress(log, run.label, run.total_steps) as display, feed:
                    _compile(stepper, feed, tally)
                    cost = cost_of(
                        run, stepper.compiled, solves=stepper.solves, devices=placed.size
                    )
                    outputs = Outputs(records, recorders, checkpoints, profile, display)
                    loop = Loop(run, stepper, feed, tally, cost, evaluator, outputs, stop)
                    outcome = loop()
                files.write_model(folder, stepper.evaluated)
                summary = _evaluated(run, evaluator, stepper, tally, outcome)
            except KeyboardInterrupt:
                reason = "Stopped by Ctrl-C before the running step or evaluation was over."
                outcome = Outcome("interrupted", ExitCode.INTERRUPTED, reason)
                summary = summarise(run, tally, outcome, judged_by=evaluator.judges_by)
            except Exception as error:
                reason = _reason(error, folder)
                outcome = Outcome("failed", ExitCode.FAILED, reason)
                summary = summarise(run, tally, outcome, judged_by=evaluator.judges_by)
                with contextlib.suppress(OSError):  # of a full disk, which is `error` already
                    files.write_summary(folder, summary)
                recorders.tell(lambda recorder: recorder.end(summary))
                if isinstance(error, OSError):
                    raise files.FolderError(reason) from error
                raise
            files.write_summary(folder, summary)
        recorders.tell(lambda recorder: recorder.end(summary))
        report(log, summary, folder)
    return summary


def _possessed(folder: Path, *, resume: bool) -> Records:
    """Take possession of the folder, and remove what a killed process had begun to write."""
    if resume:
        records = Records.reopen(folder / files.METRICS)
        remove_leftovers(folder)
        return records
    files.make_folder(folder)
    return Records.create(folder / files.METRICS)


def _restored(checkpoints: Checkpoints, stepper: Stepper, log: Log) -> Tally:
    """The tally of the checkpoint that `stepper` is brought to; what is odd about it is said."""
    restored = checkpoints.restore(stepper)
    for reason in restored.refused:
        log.warn(f"{reason} The one before it is used, of step {restored.tally.steps}.")
    present = versions()
    changed = [
        f"{name} {then}, now {present.get(name, 'missing')}"
        for name, then in restored.versions.items()
        if then != present.get(name)
    ]
    if changed:
        log.warn(
            f"The run was checkpointed with {'; '.join(changed)}: it goes on, but perhaps not bit "
            "for bit as it would have."
        )
    return restored.tally


def _reason(error: Exception, folder: Path) -> str:
    """Why the run failed, in one line; where the disk took no more, what is to be done."""
    if isinstance(error, OSError):
        return (
            f"Cannot write to the run folder `{folder}`: {error.strerror or error}. What it holds "
            f"is whole; when that is mended, continue with `resume={folder}`."
        )
    return str(error).partition("\n")[0] or type(error).__name__


def _compile(stepper: Stepper, feed: AbstractFeed, tally: Tally) -> None:
    began = time.perf_counter()
    stepper.compile(feed.shapes)
    seconds = time.perf_counter() - began
    tally.seconds += seconds
    tally.compile_seconds += seconds


def _evaluated(
    run: Run, evaluator: AbstractEvaluator, stepper: Stepper, tally: Tally, outcome: Outcome
) -> Summary:
    """The summary with losses, unless a scheduler is waiting for this process to be gone."""
    summary = functools.partial(summarise, run, tally, outcome, judged_by=evaluator.judges_by)
    if outcome.exit_code is ExitCode.RESUMABLE:
        return summary()
    model = stepper.evaluated
    parts = "train", "validation", "test"
    return summary(**{part: getattr(evaluator, part)(model) for part in parts})
