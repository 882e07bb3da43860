import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """The arrays of one step, each by the path of its weight, such as `layers/0/weight`.

    - `weights`: before the step.
    - `gradients`: of the loss of the step's batch in them.
    - `updates`: what the step subtracted from them: the natural gradient times the step size, or
        whatever the optimiser makes of the gradient; zero where the step was rejected.
    """

    weights: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    updates: dict[str, np.ndarray]


class AbstractRecorder(abc.ABC):
    """Is told what happens in a run, in the order of its steps.

    A method that raises ends the recorder, with a warning, not the run.
    """

    arrays_every: int | None = None
    """`arrays` is called after every so many steps, for the price of one more gradient."""

    @abc.abstractmethod
    def begin(self, folder: Path, config: Mapping[str, Any], steps: int) -> None:
        """The run begins, or continues.

        **Arguments:** `folder`, the run's; `config`, resolved, plain values; `steps`: those taken
        before. What was recorded of later ones, before the run was stopped, will be recorded anew.
        """

    @abc.abstractmethod
    def record(self, record: Mapping[str, Any]) -> None:
        """A step is over; `record` is its object in `metrics.jsonl`, numbers perhaps NaN."""

    def arrays(self, step: int, arrays: Arrays) -> None:
        """The arrays of step number `step`, where they are asked for by `arrays_every`."""
        del step, arrays

    def end(self, summary: Mapping[str, Any]) -> None:
        """The run is over, however it ended; not called where the process is killed."""
        del summary
