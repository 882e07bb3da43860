"""The loop over the steps of a run."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float

from data import batch_indices

from ._base import Run, Tally
from .arrays import ArraysOfSteps
from .checkpoint import Checkpoints
from .cost import Cost
from .evaluate import AbstractEvaluator
from .exit_codes import ExitCode
from .nan import NOT_FINITE, origin_of_nan
from .profile import Profile
from .progress import Bar, Lines
from .recorders import Guarded
from .records import Records
from .signals import EXIT_CODES, StopSignals
from .stepper import Order, Stepper
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
        tally: Tally,
        cost: Cost,
        evaluator: AbstractEvaluator,
        outputs: Outputs,
        stop: StopSignals,
    ):
        self._run, self._stepper, self._tally, self._cost = run, stepper, tally, cost
        self._evaluator, self._stop = evaluator, stop
        self._records, self._recorders, self._checkpoints, self._profile, self._display = outputs
        self._arrays = ArraysOfSteps(stepper, self._recorders)
        self._saved = time.perf_counter()
        self._began = self._saved - tally.seconds
        self._in_flight: Float[Array, " fields"] | None = None
        self._epoch: int | None = None

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
            order = self._order(dispatched)
            is_looked_at = self._arrays.before(dispatched + 1, order)
            packed = self._stepper.step(order)
            dispatched += 1
            self._settle()
            self._in_flight = packed
            may_be_last = settings.stop_at_nan or self._tally.rejected_in_a_row + 1 >= limit
            if may_be_last or is_looked_at or self._is_looked_at(dispatched):
                # This step may be the last, or its weights are looked at: no other may follow
                # before it is known.
                self._settle()
            if settings.stop_at_nan and self._is_not_finite():
                return Outcome("diverged", ExitCode.FAILED, self._origin_of_nan(order))
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

    def _origin_of_nan(self, order: Order) -> str:
        batch, key = self._stepper.latest_batch(order)
        origin = origin_of_nan(self._run.optimiser.objective, self._stepper.model, batch, key)
        return f"Stopped at step {self._tally.steps}. {self._tally.reason} {origin}"

    def _order(self, step: int) -> Order:
        """The batches of the epoch of a step, sent to the device once per epoch."""
        settings, n = self._run.settings, self._run.dataset.num_train
        if settings.batch_size is None or n is None:
            return None
        epoch = step // self._run.steps_per_epoch
        if epoch != self._epoch:
            order = batch_indices(settings.seed, epoch, n, settings.batch_size)
            self._epoch, self._batches = epoch, self._stepper.placed(order)
        return self._batches

    def _settle(self) -> None:
        """Wait for the step in flight, if there is one, and write it down."""
        if self._in_flight is None:
            return
        info = self._stepper.read(self._in_flight)
        self._in_flight = None
        seconds = time.perf_counter() - self._began
        self._tally.count(info, seconds, self._cost.of(info["solver_steps"]))
        if not info["result"]:
            del info["result"]
        record: dict[str, Any] = {
            "step": self._tally.steps,
            "epoch": self._tally.steps / self._run.steps_per_epoch,
            "seconds": self._tally.seconds,
            "gradient_equivalents": self._tally.gradient_equivalents,
            **info,
        }
        validated = self._is_validated(self._tally.steps)
        if validated:
            found = self._apart(self._evaluator.validation)
            record.update(entries("validation", found))
        if self._is_tested(self._tally.steps):
            record.update(entries("test", self._apart(self._evaluator.test)))
        self._records.write(record)
        self._recorders.tell(lambda recorder: recorder.record(record))
        self._arrays.after(self._tally.steps)
        self._display.update(record)
        self._judge(record)

    def _judge(self, record: dict[str, Any]) -> None:
        """Hold the state as the best, if its loss is the lowest so far.

        That is the loss of the validation part; where there is none, the mean of the losses of an
        epoch's batches, at the epoch's end.
        """
        loss = record.get("validation_loss")
        if self._is_epoch_end(self._tally.steps):
            mean = self._tally.end_epoch(self._run.steps_per_epoch)
            if self._evaluator.judges_by == "train_loss":
                loss = mean
        if loss is not None and self._tally.improves(loss):
            self._checkpoints.hold_best(self._tally, self._stepper)

    def _is_looked_at(self, step: int) -> bool:
        by_training = self._evaluator.judges_by == "train_loss" and self._is_epoch_end(step)
        is_evaluated = self._is_validated(step) or self._is_tested(step)
        return by_training or is_evaluated or self._profile.is_edge(step)

    def _is_epoch_end(self, step: int) -> bool:
        return step % self._run.steps_per_epoch == 0

    def _is_tested(self, step: int) -> bool:
        every = self._run.settings.evaluate_every
        return every is not None and step % every == 0

    def _is_validated(self, step: int) -> bool:
        """Where the test part is evaluated, or else at the end of each epoch."""
        if self._evaluator.judges_by != "validation_loss":
            return False
        no_interval = self._run.settings.evaluate_every is None
        return self._is_epoch_end(step) if no_interval else self._is_tested(step)

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
