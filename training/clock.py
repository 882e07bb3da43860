"""The time that a run has spent in training."""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple


class Time(NamedTuple):
    """A point in time, or a time span.

    - `seconds`: by the clock on the wall.
    - `processor_seconds`: of all cores that this process uses. Other programs do not add to it.
    """

    seconds: float = 0.0
    processor_seconds: float = 0.0

    @classmethod
    def now(cls) -> "Time":
        """The present point in time."""
        return cls(time.perf_counter(), time.process_time())

    def __add__(self, other: "Time") -> "Time":  # pyright: ignore[reportIncompatibleMethodOverride]
        """The sum of two time spans."""
        return Time(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: "Time") -> "Time":
        """The time span from `other` to this point in time."""
        return Time(*(a - b for a, b in zip(self, other, strict=True)))

    def over(self, number: int) -> "Time":
        """This time span divided by a number."""
        return Time(*(each / number for each in self))


class Clock:
    """Measures the time of a program and divides it evenly among the runs in it.

    **Arguments:** `before`: what each run has spent before; `runs`: the number of runs.
    """

    def __init__(self, before: Time, runs: int = 1):
        self._before, self._runs = before, runs
        self._began = Time.now()

    @property
    def spent(self) -> Time:
        """The time that each run has spent."""
        return self._before + (Time.now() - self._began).over(self._runs)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time is not counted.

        It is for evaluation, so that the seconds of a run do not depend on how often the run is
        evaluated.
        """
        began = Time.now()
        yield
        self._began += Time.now() - began
