"""The types that the modules of the training loop share: `Run` and `Tally`."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax

from data import Dataset, Stream
from environments import OnPolicy
from running.settings import Settings

from .clock import Time
from .recorders import AbstractRecorder


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything one training run needs, already built.

    **Arguments:**

    - `model`: the initial weights.
    - `optimiser`: has a field `objective`, `init(model) -> state`,
        `step(model, batch, state, *, key) -> (model, state, info)` and
        `plan(model, batch, *, key)`, as `curvature.NaturalGradient`.
    - `dataset`: a `Dataset` whose train and test parts have the batch structure of the objective;
        or a `Stream` that yields such batches; or an `OnPolicy`, in which the model generates them.
    - `settings`: how long and on which batches to train.
    - `config`: the resolved configuration, written to `config.yaml`; plain values only.
    - `label`: the name of the run in tables and figures, such as `true_fisher` or `adam`.
    - `recorders`: by name; each is called at every step of the run.
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
        """The number of steps in an epoch: the number of full batches, or 1 without a `batch_size`.

        For a stream that yields batches it is the number of batches, including a short last one;
        None if the stream has no length.
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
        """The maximum number of steps: `epochs` or `max_steps`, whichever ends first."""
        size, most = self.steps_per_epoch, self.settings.max_steps
        if size is None:
            assert most is not None, "`preflight` refuses a run without an end"
            return most
        steps = self.settings.epochs * size
        return steps if most is None else min(steps, most)


@dataclasses.dataclass
class Tally:
    """The counters of a run, kept by the host; saved with every checkpoint.

    - `steps`: steps taken, rejected ones included.
    - `seconds`, `processor_seconds`: time spent in training, summed over all interruptions.
    - `compile_seconds`, `compile_processor_seconds`: the parts that were spent on compiling.
    - `rejected`: the number of rejected steps.
    - `rejected_in_a_row`: the number of rejected steps since the last accepted step.
    - `reason`: why the last rejected step was rejected; one sentence.
    - `gradient_equivalents`: the total cost of all steps, see `cost.Cost`.
    - `epochs`: passes over the training part.
    - `place`: the position in a stream, see `data.Drawn`; None where `steps` determines it.
    - `epoch_loss`: the sum of the losses of the batches of the current epoch.
    - `best`, `best_step`: the lowest loss that `improves` was given, and the step of that loss.
    """

    steps: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    compile_seconds: float = 0.0
    compile_processor_seconds: float = 0.0
    rejected: int = 0
    rejected_in_a_row: int = 0
    reason: str = ""
    gradient_equivalents: float = 0.0
    epochs: float = 0.0
    place: dict[str, Any] | None = None
    epoch_loss: float = 0.0
    best: float | None = None
    best_step: int | None = None

    @property
    def spent(self) -> Time:
        """The time spent in training."""
        return Time(self.seconds, self.processor_seconds)

    def compiled(self, spent: Time) -> None:
        """Count the time that was spent on compiling."""
        self.seconds += spent.seconds
        self.processor_seconds += spent.processor_seconds
        self.compile_seconds += spent.seconds
        self.compile_processor_seconds += spent.processor_seconds

    def count(self, info: dict[str, Any], spent: Time, cost: float) -> None:
        """Count one more step from its `curvature.Info`, as plain values."""
        self.steps += 1
        self.seconds, self.processor_seconds = spent
        self.gradient_equivalents += cost
        self.epoch_loss += info["loss"]
        if info["accepted"]:
            self.rejected_in_a_row = 0
        else:
            self.rejected += 1
            self.rejected_in_a_row += 1
            self.reason = info["result"]

    def end_epoch(self, steps: int) -> float:
        """The mean loss of the epoch's `steps` batches, each at the weights of its own step."""
        mean, self.epoch_loss = self.epoch_loss / steps, 0.0
        return mean

    def improves(self, loss: float) -> bool:
        """Whether `loss`, of the current state, is the lowest so far; if so, record it."""
        if not math.isfinite(loss) or (self.best is not None and loss >= self.best):
            return False
        self.best, self.best_step = loss, self.steps
        return True
