"""The time that a run has spent in training."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Measures the time of a program and divides it evenly among the runs in it.

    **Arguments:** `seconds`: what each run has spent before; `runs`: the number of runs.
    """

    def __init__(self, seconds: float, runs: int = 1):
        self._runs = runs
        self._began = time.perf_counter() - seconds * runs

    @property
    def seconds(self) -> float:
        """The seconds that each run has spent."""
        return (time.perf_counter() - self._began) / self._runs

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time is not counted.

        It is for evaluation, so that the seconds of a run do not depend on how often the run is
        evaluated.
        """
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began
