"""The loop over the steps of a run."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float

from ._base import Run, Tally
from .arrays import ArraysOfSteps
from .checkpoint import Checkpoints
from .cost import Cost
from .evaluate import AbstractEvaluator
from .exit_codes import ExitCode
from .feed import AbstractFeed, Given
from .nan import NOT_FINITE, origin_of_nan
from .profile import Profile
from .progress import Bar, Lines
from .recorders import Guarded
from .records import Records
from .signals import EXIT_CODES, StopSignals
from .stepper import Stepper
from .summary import FINISHED, Outcome, entries


class Outputs(NamedTuple):
    """Where a run is written down while it goes on."""

    records: Records
    recorders: Guarded
    checkpoints: Checkpoints
    profile: Profile
    display: Bar | Lines


class Loop:
    """Takes the steps of a run, from where `tally` and `stepper` stand, and writes each down.

    A step is dispatched before the record of the one before it is read, so that the host's work
    is hidden behind the device's.
    """

    def __init__(
        self,
        run: Run,
        stepper: Stepper,
        feed: AbstractFeed,
        tally: Tally,
        cost: Cost,
        evaluator: AbstractEvaluator,
        outputs: Outputs,
        stop: StopSignals,
    ):
        self._run, self._stepper, self._feed = run, stepper, feed
        self._tally, self._cost = tally, cost
        self._evaluator, self._stop = evaluator, stop
        self._records, self._recorders, self._checkpoints, self._profile, self._display = outputs
        self._arrays = ArraysOfSteps(stepper, self._recorders)
        self._saved = time.perf_counter()
        self._began = self._saved - tally.seconds
        self._in_flight: tuple[Float[Array, " fields"], Given] | None = None

    def __call__(self) -> Outcome:
        """Run to the end, to a stop signal, or to too many rejected steps in a row.

        Leaves a checkpoint behind, except where the run diverged: there is nothing to continue.
        """
        try:
            return self._steps()
        finally:
            self._profile.stop()

    def _steps(self) -> Outcome:
        settings, dispatched = self._run.settings, self._tally.steps
        limit = settings.max_rejections
        while dispatched < self._run.total_steps and self._stop.received is None:
            self._profile(dispatched)
            given = self._feed.next(dispatched)
            if given is None:
                break
            is_looked_at = self._arrays.before(dispatched + 1, given.arrays)
            packed = self._stepper.step(given.arrays)
            dispatched += 1
            self._settle()
            self._in_flight = packed, given
            may_be_last = settings.stop_at_nan or self._tally.rejected_in_a_row + 1 >= limit
            if may_be_last or is_looked_at or self._is_looked_at(dispatched, given):
                # This step may be the last, or its weights are looked at: no other may follow
                # before it is known.
                self._settle()
            if settings.stop_at_nan and self._is_not_finite():
                return Outcome("diverged", ExitCode.FAILED, self._origin_of_nan(given))
            if self._tally.rejected_in_a_row >= limit:
                reason = f"Stopped after {limit} rejected steps in a row. {self._tally.reason}"
                return Outcome("diverged", ExitCode.FAILED, reason)
            if time.perf_counter() - self._saved >= settings.checkpoint_seconds:
                self._save()
        self._save()
        if dispatched < self._run.total_steps and self._stop.received is not None:
            name = self._stop.received.name
            reason = f"Stopped by {name} after step {dispatched}; the run can be resumed."
            return Outcome("interrupted", EXIT_CODES[self._stop.received], reason)
        return FINISHED

    def _is_not_finite(self) -> bool:
        return self._tally.rejected_in_a_row > 0 and self._tally.reason in NOT_FINITE

    def _origin_of_nan(self, given: Given) -> str:
        batch, key = self._stepper.latest_batch(given.arrays)
        origin = origin_of_nan(self._run.optimiser.objective, self._stepper.model, batch, key)
        return f"Stopped at step {self._tally.steps}. {self._tally.reason} {origin}"

    def _settle(self) -> None:
        """Wait for the step in flight, if there is one, and write it down."""
        if self._in_flight is None:
            return
        packed, given = self._in_flight
        info = self._stepper.read(packed)
        self._in_flight = None
        seconds = time.perf_counter() - self._began
        self._tally.count(info, seconds, self._cost.of(info["solver_steps"]))
        self._tally.epochs, self._tally.place = given.epochs, given.place
        if not info["result"]:
            del info["result"]
        record: dict[str, Any] = {
            "step": self._tally.steps,
            "epoch": self._tally.epochs,
            "seconds": self._tally.seconds,
            "gradient_equivalents": self._tally.gradient_equivalents,
            **info,
        }
        if self._is_validated(self._tally.steps, given):
            found = self._apart(self._evaluator.validation)
            record.update(entries("validation", found))
        if self._is_tested(self._tally.steps):
            record.update(entries("test", self._apart(self._evaluator.test)))
        self._records.write(record)
        self._recorders.tell(lambda recorder: recorder.record(record))
        self._arrays.after(self._tally.steps)
        self._display.update(record)
        self._judge(record, given)

    def _judge(self, record: dict[str, Any], given: Given) -> None:
        """Hold the state as the best, if its loss is the lowest so far.

        That is the loss of the validation part; where there is none, the mean of the losses of an
        epoch's batches, at the epoch's end.
        """
        loss = record.get("validation_loss")
        if given.epoch_steps is not None:
            mean = self._tally.end_epoch(given.epoch_steps)
            if self._evaluator.judges_by == "train_loss":
                loss = mean
        if loss is not None and self._tally.improves(loss):
            self._checkpoints.hold_best(self._tally, self._stepper)

    def _is_looked_at(self, step: int, given: Given) -> bool:
        ends_epoch = given.epoch_steps is not None
        by_training = self._evaluator.judges_by == "train_loss" and ends_epoch
        is_evaluated = self._is_validated(step, given) or self._is_tested(step)
        return by_training or is_evaluated or self._profile.is_edge(step)

    def _is_tested(self, step: int) -> bool:
        every = self._run.settings.evaluate_every
        return every is not None and step % every == 0

    def _is_validated(self, step: int, given: Given) -> bool:
        """Where the test part is evaluated, or else at the end of each epoch."""
        if self._evaluator.judges_by != "validation_loss":
            return False
        no_interval = self._run.settings.evaluate_every is None
        return given.epoch_steps is not None if no_interval else self._is_tested(step)

    def _apart(self, evaluate: Callable[[eqx.Module], dict[str, float]]) -> dict[str, float]:
        """What `evaluate` finds of the present model.

        The time that it takes is not training's: runs compare whether they are evaluated or not.
        """
        began = time.perf_counter()
        found = evaluate(self._stepper.evaluated)
        self._began += time.perf_counter() - began
        return found

    def _save(self) -> None:
        """Write a checkpoint after all steps that were dispatched."""
        self._settle()
        self._records.synchronise()
        self._checkpoints.save(self._tally, self._stepper)
        self._saved = time.perf_counter()
