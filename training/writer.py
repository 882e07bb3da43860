"""Writes the files of a run, during the run and at its end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx

from running.exit_codes import ExitCode

from . import folder as files, hosts
from ._base import Run, Tally
from .arrays import ArraysOfSteps
from .checkpoint import Checkpoints
from .clock import Clock
from .evaluate import AbstractEvaluator
from .feed import AbstractFeed, Given, feed_of
from .log import Log
from .machine import versions
from .mesh import Placement
from .nan import NOT_FINITE, origin_of_nan
from .progress import Bar, Lines, progress, report
from .provenance import write_provenance
from .recorders import Guarded
from .records import Records
from .stepper import Stepper
from .summary import Outcome, Summary, entries, final_outcome, summarise


class Writer:
    """Writes the files of one run: its steps, its best state, its checkpoints and its summary.

    **Arguments:**

    - `run`, `folder`: the run, and the folder for its files.
    - `stepper`: holds the arrays of the run.
    - `evaluator`: evaluates the models of the run.
    - `records`, `log`: open.
    - `resume`: set `stepper` to the newest checkpoint in the folder.
    - `runs`: the number of runs that share the program.

    With several processes, each has a `Writer`, and only that of the first process writes.

    `tally` has the counters of the run; `summary` is None until the run has ended.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        stepper: Stepper,
        evaluator: AbstractEvaluator,
        records: Records,
        log: Log,
        *,
        resume: bool = False,
        runs: int = 1,
    ):
        self.run, self.folder, self._stepper, self._evaluator = run, folder, stepper, evaluator
        self._records, self._log, self._resume, self._runs = records, log, resume, runs
        self._writes = hosts.is_first()
        self._recorders = Guarded(run.recorders if self._writes else {}, log)
        self._arrays = ArraysOfSteps(stepper, self._recorders)
        self._checkpoints = Checkpoints(
            folder / files.CHECKPOINTS,
            run.config,
            versions(),
            run.settings.keep_checkpoints,
        )
        if self._writes:
            log.open(folder)
        self.tally = _restore(self._checkpoints, stepper, log) if resume else Tally()
        self.summary: Summary | None = None
        self._has_begun = False

    def begin(self, plan: str, warning: str | None) -> None:
        """Write the files and lines that come before the first step.

        **Arguments:** `plan`: one line on the run; `warning`: a line of warning, or None.
        """
        kept = self._records.rewind(self.tally.steps) if self._resume else self.tally.steps
        if self._writes:
            files.remove_end(self.folder)
            files.write_config(self.folder, self.run.config)
            write_provenance(self.folder)
        self._log.say(plan)
        if self._writes and kept < self.tally.steps:
            self._log.warn(
                f"`{files.METRICS}` ends after step {kept}, but the run continues after step "
                f"{self.tally.steps}: the records in between are lost."
            )
        if warning is not None:
            self._log.warn(warning)
        self._has_begun = True
        self._recorders.tell(
            lambda recorder: recorder.begin(self.folder, self.run.config, self.tally.steps)
        )

    def open_feed(self, placed: Placement, is_stopped: Callable[[], bool]) -> AbstractFeed:
        """The feed of the remaining steps, a context manager; `is_stopped`: see `feed_of`."""
        return feed_of(self.run, placed, self.tally, is_stopped, self._log.warn)

    def open_display(self) -> Bar | Lines:
        """The display of the steps, a context manager."""
        self._display = progress(self._log, self.run.label, self.run.total_steps)
        return self._display

    def wants_arrays(self, step: int) -> bool:
        """Whether a recorder wants the arrays of step number `step`."""
        return bool(self._recorders.needing_arrays(step))

    def take_arrays(self, step: int, given: Given) -> None:
        """Copy the arrays before the next step, number `step`."""
        self._arrays.before(step, given.arrays)

    def record_step(self, info: dict[str, Any], given: Given, cost: float, clock: Clock) -> None:
        """Record a step that is over.

        **Arguments:** `info`: what `Stepper.read` returned; `given`: the input of the step;
        `cost`: the cost of the step in gradient-equivalents; `clock`: the time of the run.
        """
        self.tally.count(info, clock.spent, cost)
        self.tally.epochs, self.tally.place = given.epochs, given.place
        if not info["result"]:
            del info["result"]
        record: dict[str, Any] = {
            "step": self.tally.steps,
            "epoch": self.tally.epochs,
            "seconds": self.tally.seconds,
            "processor_seconds": self.tally.processor_seconds,
            "gradient_equivalents": self.tally.gradient_equivalents,
            **info,
        }
        with clock.paused():
            if self._is_validated(self.tally.steps, given):
                record.update(entries("validation", self._evaluate(self._evaluator.validation)))
            if self._is_evaluated(self.tally.steps):
                if self.run.settings.evaluate_train:
                    record.update(entries("train", self._evaluate(self._evaluator.train)))
                if self.run.settings.evaluate_test:
                    record.update(entries("test", self._evaluate(self._evaluator.test)))
        self._records.write(record)
        self._recorders.tell(lambda recorder: recorder.record(record))
        self._arrays.after(self.tally.steps)
        self._display.update(record)
        self._judge(record, given)

    def needs_latest(self, step: int, given: Given) -> bool:
        """Whether step number `step` may be the last, or its weights are read.

        The host then waits for this step before it dispatches the next one, which would donate
        (destroy) the weights.
        """
        settings = self.run.settings
        return (
            settings.stop_at_nan
            or self.tally.rejected_in_a_row + 1 >= settings.max_rejections
            or self.wants_arrays(step)
            or (self._evaluator.judges_by == "train_loss" and given.epoch_steps is not None)
            or self._is_validated(step, given)
            or self._is_evaluated(step)
        )

    def diverged(self, given: Given) -> Outcome | None:
        """The outcome of the run if the latest step ended it; else None."""
        tally, settings = self.tally, self.run.settings
        if settings.stop_at_nan and tally.rejected_in_a_row > 0 and tally.reason in NOT_FINITE:
            return Outcome("diverged", ExitCode.FAILED, self._origin_of_nan(given))
        if tally.rejected_in_a_row >= settings.max_rejections:
            reason = f"Stopped after {settings.max_rejections} rejected steps in a row."
            return Outcome("diverged", ExitCode.FAILED, f"{reason} {tally.reason}")
        return None

    def save(self) -> None:
        """Write a checkpoint."""
        self._records.synchronise()
        self._checkpoints.save(self.tally, self._stepper)

    def end(self, outcome: Outcome) -> None:
        """Write the final weights and the summary.

        The summary has losses, unless a scheduler is waiting for this process to exit.
        """
        self._checkpoints.save_best()  # a run that has diverged writes no further checkpoint
        # `whole` needs all processes, also those that do not write.
        model, whole = self._stepper.evaluated, self._stepper.whole
        if self._writes:
            files.write_model(self.folder, whole)
        is_evaluated = outcome.exit_code is not ExitCode.RESUMABLE
        parts = ("train", "validation", "test") if is_evaluated else ()
        losses = {part: getattr(self._evaluator, part)(model) for part in parts}
        self._summarise(final_outcome(outcome, self.tally, losses), **losses)

    def abort(self, outcome: Outcome) -> None:
        """Write the summary of a run that ends within a step, unless it has a summary already."""
        if self.summary is None:
            self._summarise(outcome)

    def end_recorders(self) -> None:
        """Tell the recorders that the run has ended."""
        summary = self.summary
        assert summary is not None, "`end` and `abort` set the summary"
        if self._has_begun:
            self._recorders.tell(lambda recorder: recorder.end(summary))

    def close(self) -> Summary:
        """Tell the recorders that the run has ended, and print the summary.

        **Returns:** the summary.
        """
        self.end_recorders()
        assert self.summary is not None
        report(self._log, self.summary, self.folder)
        return self.summary

    def _summarise(self, outcome: Outcome, **losses: dict[str, float]) -> None:
        judged_by = self._evaluator.judges_by
        self.summary = summarise(
            self.run, self.tally, outcome, runs=self._runs, judged_by=judged_by, **losses
        )
        if self._writes:
            files.write_summary(self.folder, self.summary)

    def _evaluate(self, evaluate: Callable[[eqx.Module], dict[str, float]]) -> dict[str, float]:
        return evaluate(self._stepper.evaluated)

    def _judge(self, record: dict[str, Any], given: Given) -> None:
        """Hold the state as the best, if its loss is the lowest so far.

        This is the loss of the validation part. If there is none, it is the mean of the losses of
        an epoch's batches, at the end of the epoch.
        """
        loss = record.get("validation_loss")
        if given.epoch_steps is not None:
            mean = self.tally.end_epoch(given.epoch_steps)
            if self._evaluator.judges_by == "train_loss":
                loss = mean
        if loss is not None and self.tally.improves(loss):
            self._checkpoints.hold_best(self.tally, self._stepper)

    def _origin_of_nan(self, given: Given) -> str:
        batch, key = self._stepper.latest_batch(given.arrays)
        origin = origin_of_nan(self.run.optimiser.objective, self._stepper.model, batch, key)
        return f"Stopped at step {self.tally.steps}. {self.tally.reason} {origin}"

    def _is_evaluated(self, step: int) -> bool:
        every = self.run.settings.evaluate_every
        return every is not None and step % every == 0

    def _is_validated(self, step: int, given: Given) -> bool:
        """True at the steps of `evaluate_every`; if that is None, at the end of each epoch."""
        if self._evaluator.judges_by != "validation_loss":
            return False
        no_interval = self.run.settings.evaluate_every is None
        return given.epoch_steps is not None if no_interval else self._is_evaluated(step)


def _restore(checkpoints: Checkpoints, stepper: Stepper, log: Log) -> Tally:
    """Restore `stepper`, and return its tally; warns of refused files and of other versions."""
    restored = checkpoints.restore(stepper)
    for reason in restored.refused:
        log.warn(
            f"{reason} The checkpoint before it, of step {restored.tally.steps}, is used instead."
        )
    present = versions()
    changed = [
        f"{name} {then}, now {present.get(name, 'missing')}"
        for name, then in restored.versions.items()
        if then != present.get(name)
    ]
    if changed:
        log.warn(
            f"The checkpoint was written with {'; '.join(changed)}. The run continues, but its "
            "results may not be the same bit for bit."
        )
    return restored.tally
