"""What `train` returns and writes to `summary.json`."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, NotRequired, TypedDict

import equinox as eqx
import jax

from ._base import Run, Tally
from .exit_codes import ExitCode

Status = Literal["finished", "diverged", "interrupted", "failed"]


class Outcome(NamedTuple):
    """How a run ended. `reason` is a sentence, empty for a finished run."""

    status: Status
    exit_code: ExitCode
    reason: str = ""


FINISHED = Outcome("finished", ExitCode.FINISHED)


class Summary(TypedDict):
    """A run in a few numbers; losses are the final model's, over the whole part.

    The final model is what `curvature.evaluated` says, an average perhaps; `model.eqx` holds it.

    - `status`, `reason` (unless finished), `exit_code`: how it ended.
    - `steps`, `epochs`: steps taken, and that number over the steps per epoch.
    - `rejected`: those of the steps that left the weights as they were.
    - `seconds`: spent in training, compilation included, over all resumptions.
    - `compile_seconds`: of them, compiling the step.
    - `gradient_equivalents`, `gradient_equivalents_per_step`: operations in gradients of the loss
      on the same batch, in all and on average, see `cost.Cost`; NaN where they are not known.
    - `train_loss`, `test_loss`, `test` (the metrics, such as `accuracy`): None and empty where
      the run had no time for them.
    - `curvature`: the run's label; `seed`; `parameters`: the number of floating-point weights.
    """

    status: Status
    reason: NotRequired[str]
    exit_code: int
    curvature: str
    seed: int
    steps: int
    epochs: float
    seconds: float
    compile_seconds: float
    gradient_equivalents: float
    gradient_equivalents_per_step: float
    train_loss: float | None
    test_loss: float | None
    test: dict[str, float]
    rejected: int
    parameters: int


class TestEntries(TypedDict):
    """How the numbers of a test part are written, in the summary and along the way."""

    test_loss: float | None
    test: dict[str, float]


def test_entries(found: Mapping[str, float]) -> TestEntries:
    """What `evaluate` found on the test part, as it is written."""
    metrics = {name: value for name, value in found.items() if name != "loss"}
    return {"test_loss": found.get("loss"), "test": metrics}


def summarise(
    run: Run,
    tally: Tally,
    outcome: Outcome,
    *,
    train: Mapping[str, float] = MappingProxyType({}),
    test: Mapping[str, float] = MappingProxyType({}),
) -> Summary:
    """Put a summary together; `train` and `test` are what `evaluate` returned, if anything."""
    spent = tally.gradient_equivalents
    weights = jax.tree.leaves(eqx.filter(run.model, eqx.is_inexact_array))
    summary: Summary = {
        "status": outcome.status,
        "exit_code": int(outcome.exit_code),
        "curvature": run.label,
        "seed": run.settings.seed,
        "steps": tally.steps,
        "epochs": tally.steps / run.steps_per_epoch,
        "seconds": tally.seconds,
        "compile_seconds": tally.compile_seconds,
        "gradient_equivalents": spent,
        "gradient_equivalents_per_step": spent / tally.steps if tally.steps else math.nan,
        "train_loss": train.get("loss"),
        **test_entries(test),
        "rejected": tally.rejected,
        "parameters": sum(leaf.size for leaf in weights),
    }
    if outcome.reason:
        summary["reason"] = outcome.reason
    return summary
