"""The time that a run has spent in training."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """The seconds of a program, shared out evenly among the runs in it.

    **Arguments:** `seconds`: what each has spent before; `runs`: how many there are.
    """

    def __init__(self, seconds: float, runs: int = 1):
        self._runs = runs
        self._began = time.perf_counter() - seconds * runs

    @property
    def seconds(self) -> float:
        """What each run has spent."""
        return (time.perf_counter() - self._began) / self._runs

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """What is done in it does not count.

        Evaluation is not training: runs compare whether they are evaluated or not.
        """
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began
