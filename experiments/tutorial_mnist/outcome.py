"""The results of a method on a problem."""

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness.command import summary
from experiments.harness.curves import Curve, read_curve, records
from experiments.harness.levels import last_loss
from experiments.harness.method import Method, Setting
from experiments.harness.runs import Runs
from experiments.harness.tuning import Tried, lowest

TUNING_SEEDS = (100, 101)


class Run(NamedTuple):
    """One run.

    - `train`, `accuracy`: the training loss and the test accuracy at every evaluation. If the
      optimiser averages the weights, these are of the averages.
    - `batch_loss`: the loss of the batch of every step, before the step.
    - `rejected`: the number of rejected steps.
    - `folder`: that of the run.
    """

    train: Curve
    accuracy: Curve
    batch_loss: list[float]
    rejected: int
    folder: Path

    @property
    def last_loss(self) -> float:
        """The training loss at the end; infinite if the run diverged."""
        return last_loss(self.train)

    @property
    def last_accuracy(self) -> float:
        """The test accuracy at the end, in per cent."""
        return 100 * self.accuracy[-1].value


class Outcome(NamedTuple):
    """A method's chosen setting, all settings tried, and one run per reported seed."""

    name: str
    setting: Setting
    tried: list[Tried]
    runs: list[Run]

    @property
    def seconds_per_step(self) -> float:
        """The processor seconds of a step, the median over the seeds."""
        ends = [run.train[-1] for run in self.runs]
        return statistics.median(end.processor_seconds / end.step for end in ends)


def read_run(folder: Path) -> Run:
    """Read a run."""
    losses = [float("nan") if r["loss"] is None else r["loss"] for r in records(folder)]
    train, accuracy = read_curve(folder, "train"), read_curve(folder, "test", "accuracy")
    return Run(train, accuracy, losses, summary(folder)["rejected"], folder)


def study(runs: Runs, methods: Sequence[Method]) -> dict[str, Outcome]:
    """Tune all methods by the mean training loss at the end, and run them on other seeds."""
    tuned = {}
    for method in methods:
        attempt = functools.partial(runs.tried, method, seeds=TUNING_SEEDS)
        tuned[method.name] = lowest(method, attempt)
    folders = runs.run_in_turns([(method, tuned[method.name][0]) for method in methods])
    return {
        name: Outcome(name, setting, tried, [*map(read_run, folders[name])])
        for name, (setting, tried) in tuned.items()
    }


def plain(outcome: Outcome) -> dict[str, Any]:
    """All curves and trials, for the JSON file."""
    return {
        "train_loss": [[p.value for p in run.train] for run in outcome.runs],
        "test_accuracy": [[p.value for p in run.accuracy] for run in outcome.runs],
        "batch_loss": [run.batch_loss for run in outcome.runs],
        "tried": [[each.setting, each.last_loss] for each in outcome.tried],
    }
