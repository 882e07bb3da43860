"""The loop over the steps of a run."""

import time
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from data import batch_indices

from ._base import Run, Tally
from .checkpoint import Checkpoints
from .cost import Cost
from .evaluate import AbstractEvaluator
from .exit_codes import ExitCode
from .progress import Bar, Lines
from .records import Records
from .signals import EXIT_CODES, StopSignals
from .stepper import Order, Stepper
from .summary import FINISHED, Outcome, TestEntries, test_entries


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
        records: Records,
        checkpoints: Checkpoints,
        evaluator: AbstractEvaluator,
        display: Bar | Lines,
        stop: StopSignals,
    ):
        self._run, self._stepper, self._tally, self._cost = run, stepper, tally, cost
        self._records, self._checkpoints = records, checkpoints
        self._evaluator, self._display, self._stop = evaluator, display, stop
        self._saved = time.perf_counter()
        self._began = self._saved - tally.seconds
        self._in_flight: Float[Array, " fields"] | None = None
        self._epoch: int | None = None

    def __call__(self) -> Outcome:
        """Run to the end, to a stop signal, or to too many rejected steps in a row.

        Leaves a checkpoint behind, except where the run diverged: there is nothing to continue.
        """
        limit, dispatched = self._run.settings.max_rejections, self._tally.steps
        while dispatched < self._run.total_steps and self._stop.received is None:
            packed = self._stepper.step(self._order(dispatched))
            dispatched += 1
            self._settle()
            self._in_flight = packed
            if self._tally.rejected_in_a_row + 1 >= limit or self._is_evaluated(dispatched):
                # This step may be the last, or its weights are looked at: no other may follow
                # before it is known.
                self._settle()
            if self._tally.rejected_in_a_row >= limit:
                reason = f"Stopped after {limit} rejected steps in a row. {self._tally.reason}"
                return Outcome("diverged", ExitCode.FAILED, reason)
            if time.perf_counter() - self._saved >= self._run.settings.checkpoint_seconds:
                self._save()
        self._save()
        if dispatched < self._run.total_steps and self._stop.received is not None:
            name = self._stop.received.name
            reason = f"Stopped by {name} after step {dispatched}; the run can be resumed."
            return Outcome("interrupted", EXIT_CODES[self._stop.received], reason)
        return FINISHED

    def _order(self, step: int) -> Order:
        """The batches of the epoch of a step, sent to the device once per epoch."""
        settings, n = self._run.settings, self._run.dataset.num_train
        if settings.batch_size is None or n is None:
            return None
        epoch = step // self._run.steps_per_epoch
        if epoch != self._epoch:
            order = batch_indices(settings.seed, epoch, n, settings.batch_size)
            self._epoch, self._batches = epoch, jnp.asarray(order, jnp.int32)
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
        if self._is_evaluated(self._tally.steps):
            record.update(self._evaluate())
        self._records.write(record)
        self._display.update(record)

    def _is_evaluated(self, step: int) -> bool:
        every = self._run.settings.evaluate_every
        return every is not None and step % every == 0

    def _evaluate(self) -> TestEntries:
        """The numbers of the test part, under the names that they have in the summary.

        The time that it takes is not training's: runs compare whether they are evaluated or not.
        """
        began = time.perf_counter()
        found = self._evaluator.test(self._stepper.evaluated)
        self._began += time.perf_counter() - began
        return test_entries(found)

    def _save(self) -> None:
        """Write a checkpoint after all steps that were dispatched."""
        self._settle()
        self._records.synchronise()
        self._checkpoints.save(self._tally, self._stepper)
        self._saved = time.perf_counter()
