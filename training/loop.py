"""The loop over the steps of a program."""

import signal
import time
from collections.abc import Sequence

from jaxtyping import Array

from running.signals import EXIT_CODES, StopSignals

from . import hosts
from .agreement import Agreement
from .clock import Clock
from .cost import Cost
from .feed import AbstractFeed, Given
from .profile import Profile
from .program import AbstractProgram
from .summary import FINISHED, Outcome
from .writer import Writer


class Loop:
    """Takes the remaining steps of a program, and passes each one to the writers of its runs.

    A step is dispatched before the record of the previous step is read, so the host works while the
    device computes.

    **Arguments:** `feeds`, `writers`: one for each run of `program`; the runs are equally long.
    """

    def __init__(
        self,
        program: AbstractProgram,
        feeds: Sequence[AbstractFeed],
        writers: Sequence[Writer],
        cost: Cost,
        profile: Profile,
        stop: StopSignals,
        agreement: Agreement,
    ):
        self._program, self._feeds, self._writers, self._cost = program, feeds, writers, cost
        self._profile, self._stop, self._agreement = profile, stop, agreement
        self._running = list(writers)
        self._clock = Clock(writers[0].tally.spent, len(writers))
        self._saved = time.perf_counter()
        self._in_flight: tuple[Array, list[Given]] | None = None

    def __call__(self) -> Outcome:
        """Run to the end, to a stop signal, or until every run has diverged.

        Each run writes a final checkpoint, except a diverged run, which is not continued. A run
        that diverges while others go on gets its summary immediately.

        **Returns:** the outcome of those runs that have no summary yet.
        """
        try:
            return self._steps()
        finally:
            self._profile.stop()

    def _steps(self) -> Outcome:
        run, dispatched = self._writers[0].run, self._writers[0].tally.steps
        stopped_by = 0
        while dispatched < run.total_steps:
            is_due = time.perf_counter() - self._saved >= run.settings.checkpoint_seconds
            stopped_by, saves = self._agreement(self._stop.received or 0, is_due)
            if stopped_by:
                break
            if saves:
                self._save()
            self._profile(dispatched)
            given = [each for feed in self._feeds if (each := feed.next(dispatched)) is not None]
            if not given:  # the data end here; or, with one process, a signal ended the wait
                stopped_by = self._stop.received or 0 if hosts.count() == 1 else 0
                break
            self._take_arrays(dispatched + 1, given)
            packed = self._program.step([each.arrays for each in given])
            dispatched += 1
            self._record_step()
            self._in_flight = packed, given
            if self._needs_arrays(dispatched, given):
                self._copy_latest()
            for writer, step_input in self._pair_running(given):
                if (outcome := writer.diverged(step_input)) is not None:
                    self._running.remove(writer)
                    if not self._running:
                        return outcome
                    with self._clock.paused():
                        writer.end(outcome)
        self._save()
        if stopped_by:
            received = signal.Signals(stopped_by)
            reason = f"Stopped by {received.name} after step {dispatched}; the run can be resumed."
            return Outcome("interrupted", EXIT_CODES[received], reason)
        return FINISHED

    def _pair_running(self, given: list[Given]) -> list[tuple[Writer, Given]]:
        """The runs that have not ended, each with the input of its step."""
        pairs = zip(self._writers, given, strict=True)
        return [(writer, step_input) for writer, step_input in pairs if writer in self._running]

    def _take_arrays(self, step: int, given: list[Given]) -> None:
        wanting = [pair for pair in self._pair_running(given) if pair[0].wants_arrays(step)]
        if wanting:
            self._copy_latest()
        for writer, step_input in wanting:
            writer.take_arrays(step, step_input)

    def _needs_arrays(self, step: int, given: list[Given]) -> bool:
        by_runs = any(
            writer.needs_latest(step, step_input)
            for writer, step_input in self._pair_running(given)
        )
        return by_runs or self._profile.is_edge(step)

    def _copy_latest(self) -> None:
        """Copy the arrays of the latest step to the runs' steppers, and record the step."""
        self._program.copy_to_steppers()
        self._record_step()

    def _record_step(self) -> None:
        """Wait for the step in flight, if there is one, and record it."""
        if self._in_flight is None:
            return
        packed, given = self._in_flight
        found = dict(zip(self._writers, self._program.read(packed), strict=True))
        self._in_flight = None
        for writer, step_input in self._pair_running(given):
            info = found[writer]
            writer.record_step(info, step_input, self._cost.of(info["solver_steps"]), self._clock)

    def _save(self) -> None:
        """Wait for all dispatched steps, then write checkpoints."""
        self._copy_latest()
        for writer in self._running:
            writer.save()
        self._saved = time.perf_counter()
