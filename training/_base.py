"""What the modules of the loop share: the run, and where it stands."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax

from data import Dataset, Stream
from environments import OnPolicy
from running.settings import Settings

from .recorders import AbstractRecorder


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything one training run needs, already built.

    **Arguments:**

    - `model`: the initial weights.
    - `optimiser`: has a field `objective`, `init(model) -> state`,
        `step(model, batch, state, *, key) -> (model, state, info)` and
        `plan(model, batch, *, key)`, as `curvature.NaturalGradient`.
    - `dataset`: its train and test parts have the batch structure of the objective; or the stream
        that yields such batches; or the environment in which the model makes its own.
    - `settings`: how long and on which batches to train.
    - `config`: the resolved configuration, written to `config.yaml`; plain values only.
    - `label`: what the run is called beside others, such as `true_fisher` or `adam`.
    - `recorders`: are told of its steps, by name.
    """

    model: eqx.Module
    optimiser: Any
    dataset: Dataset | Stream | OnPolicy
    settings: Settings
    config: dict[str, Any]
    label: str
    recorders: Mapping[str, AbstractRecorder] = dataclasses.field(default_factory=dict)

    @property
    def steps_per_epoch(self) -> int | None:
        """One of the whole training part, or as many as there are full batches.

        None for a stream that does not say how many batches it has; where it does, a short last one
        is counted.
        """
        batch_size, n = self.settings.batch_size, self.dataset.num_train
        if isinstance(self.dataset, Stream) and n is None:
            return self.dataset.num_batches
        if batch_size is None:
            return 1
        assert n is not None, "`preflight` refuses batches of terms with different numbers"
        return n // batch_size

    @property
    def parameters(self) -> int:
        """The number of floating-point weights."""
        weights = eqx.filter(self.model, eqx.is_inexact_array)
        return sum(leaf.size for leaf in jax.tree.leaves(weights))

    @property
    def total_steps(self) -> int:
        """The most steps there may be: `epochs` or `max_steps`, whichever comes first."""
        size, most = self.steps_per_epoch, self.settings.max_steps
        if size is None:
            assert most is not None, "`preflight` refuses a run without an end"
            return most
        steps = self.settings.epochs * size
        return steps if most is None else min(steps, most)


@dataclasses.dataclass
class Tally:
    """Where a run stands, in what the host counts; saved with every checkpoint.

    - `steps`: steps taken, rejected ones included.
    - `seconds`: spent in training, before an interruption and after it.
    - `compile_seconds`: of these, spent in compiling the step.
    - `rejected`: rejected steps in all.
    - `rejected_in_a_row`: the latest of them, since the last accepted step.
    - `reason`: of the last rejection, a sentence.
    - `gradient_equivalents`: spent in all, see `cost.Cost`.
    - `epochs`: passes over the training part.
    - `place`: where a stream stands, see `data.Drawn`; None where `steps` says it.
    - `epoch_loss`: the sum of the losses of the present epoch's batches.
    - `best`, `best_step`: the lowest loss by which states are judged, see `Loop`, and its step.
    """

    steps: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    rejected: int = 0
    rejected_in_a_row: int = 0
    reason: str = ""
    gradient_equivalents: float = 0.0
    epochs: float = 0.0
    place: dict[str, Any] | None = None
    epoch_loss: float = 0.0
    best: float | None = None
    best_step: int | None = None

    def count(self, info: dict[str, Any], seconds: float, cost: float) -> None:
        """Count one more step from its `curvature.Info`, as plain values."""
        self.steps += 1
        self.seconds = seconds
        self.gradient_equivalents += cost
        self.epoch_loss += info["loss"]
        if info["accepted"]:
            self.rejected_in_a_row = 0
        else:
            self.rejected += 1
            self.rejected_in_a_row += 1
            self.reason = info["result"]

    def end_epoch(self, steps: int) -> float:
        """The mean loss of the epoch's `steps` batches, each at the weights of its time."""
        mean, self.epoch_loss = self.epoch_loss / steps, 0.0
        return mean

    def improves(self, loss: float) -> bool:
        """Whether `loss`, of the present state, is the best so far; if so it is noted."""
        if not math.isfinite(loss) or (self.best is not None and loss >= self.best):
            return False
        self.best, self.best_step = loss, self.steps
        return True
