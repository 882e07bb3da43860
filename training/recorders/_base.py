import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """The arrays of one step, each by the path of its weight, such as `layers/0/weight`.

    - `weights`: before the step.
    - `gradients`: of the loss of the step's batch at these weights.
    - `updates`: what the step subtracted from the weights: the natural gradient times the step
        size, or the update of another optimiser; zero if the step was rejected.
    """

    weights: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    updates: dict[str, np.ndarray]


class AbstractRecorder(abc.ABC):
    """Receives the events of a run, in the order of its steps.

    If a method raises, the recorder is no longer called; there is a warning, and the run goes on.
    """

    arrays_every: int | None = None
    """The number of steps between calls of `arrays`, each costing a gradient. None: no calls."""

    @abc.abstractmethod
    def begin(self, folder: Path, config: Mapping[str, Any], steps: int) -> None:
        """The run begins, or continues.

        **Arguments:** `folder`: of the run; `config`: resolved, plain values; `steps`: the number
        of steps taken before. Later steps may have been recorded before the run was interrupted;
        they will be recorded again.
        """

    @abc.abstractmethod
    def record(self, record: Mapping[str, Any]) -> None:
        """A step is over; `record` is its object in `metrics.jsonl`, where NaN stays NaN."""

    def arrays(self, step: int, arrays: Arrays) -> None:
        """The arrays of step number `step`; called if `arrays_every` asks for this step."""
        del step, arrays

    def end(self, summary: Mapping[str, Any]) -> None:
        """The run is over, however it ended; not called if the process is killed."""
        del summary
