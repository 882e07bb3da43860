"""What `train` returns and writes to `summary.json`."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, cast

from running.exit_codes import ExitCode

from ._base import Run, Tally
from .provenance import described

Status = Literal["finished", "diverged", "interrupted", "failed"]


class Outcome(NamedTuple):
    """How a run ended. `reason` is a sentence, empty for a finished run."""

    status: Status
    exit_code: ExitCode
    reason: str = ""


FINISHED = Outcome("finished", ExitCode.FINISHED)


def at_the_end(
    outcome: Outcome, tally: Tally, losses: Mapping[str, Mapping[str, float]]
) -> Outcome:
    """The outcome of a run whose steps are over: one that trained nothing has not finished.

    **Arguments:** `losses`: what `evaluate` returned of each part of the data.
    """
    if outcome is not FINISHED:
        return outcome
    if tally.steps and tally.rejected == tally.steps:
        reason = f"None of the {tally.steps} steps was accepted. {tally.reason}"
        return Outcome("diverged", ExitCode.FAILED, reason)
    for part, found in losses.items():
        if not math.isfinite(found.get("loss", 0.0)):
            reason = f"The final loss of the {part} part is not finite."
            return Outcome("diverged", ExitCode.FAILED, reason)
    return outcome


class Best(TypedDict):
    """The best state of a run, `checkpoints/best.ckpt`.

    - `step`: after which it was reached.
    - `loss`, `by`: `validation_loss`, or where nothing is held out `train_loss`: the mean of the
      losses of the batches of the epoch that ended there.
    """

    step: int
    by: str
    loss: float


class Summary(TypedDict):
    """A run in a few numbers; losses are the final model's, over the whole part.

    The final model is what `curvature.evaluated` says, an average perhaps; `model.eqx` holds it.

    - `status`, `reason` (unless finished), `exit_code`: how it ended.
    - `steps`, `epochs`: steps taken, and the passes over the training part that they are.
    - `rejected`: those of the steps that left the weights as they were.
    - `seconds`: spent in training, compilation included, over all resumptions. Of a program that
      trains several runs, each has spent the same share.
    - `compile_seconds`: of them, compiling the step.
    - `gradient_equivalents`, `gradient_equivalents_per_step`: operations in gradients of the loss
      on the same batch, in all and on average, see `cost.Cost`; NaN where they are not known.
    - `train_loss`, `test_loss`, `test` (the metrics, such as `accuracy`): None and empty where
      the run had no time for them.
    - `validation_loss`, `validation`: the same of the validation part, where one is held out.
    - `best`: the best state on the way, not chosen by the test part; None where there is none.
    - `machine`, `git`: device and versions, and the commit of the code.
    - `vectorised`: how many runs shared the program, where there were several.
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
    validation_loss: NotRequired[float]
    validation: NotRequired[dict[str, float]]
    rejected: int
    parameters: int
    best: Best | None
    vectorised: NotRequired[int]
    machine: dict[str, Any]
    git: dict[str, Any] | None


def entries(part: str, found: Mapping[str, float]) -> dict[str, Any]:
    """What `evaluate` found on a part, as it is written: `test_loss` and `test`, the metrics."""
    metrics = {name: value for name, value in found.items() if name != "loss"}
    return {f"{part}_loss": found.get("loss"), part: metrics}


def summarise(
    run: Run,
    tally: Tally,
    outcome: Outcome,
    *,
    runs: int = 1,
    judged_by: str | None = None,
    train: Mapping[str, float] = MappingProxyType({}),
    validation: Mapping[str, float] = MappingProxyType({}),
    test: Mapping[str, float] = MappingProxyType({}),
) -> Summary:
    """Put a summary together.

    **Arguments:** `runs`: how many shared the program; `judged_by`: see
    `AbstractEvaluator.judges_by`; `train`, `validation`, `test`: what `evaluate` returned, if
    anything.
    """
    spent = tally.gradient_equivalents
    best = None
    if judged_by is not None and tally.best is not None:
        best = {"step": tally.best_step, "by": judged_by, "loss": tally.best}
    summary = {
        "status": outcome.status,
        "exit_code": int(outcome.exit_code),
        "curvature": run.label,
        "seed": run.settings.seed,
        "steps": tally.steps,
        "epochs": tally.epochs,
        "seconds": tally.seconds,
        "compile_seconds": tally.compile_seconds,
        "gradient_equivalents": spent,
        "gradient_equivalents_per_step": spent / tally.steps if tally.steps else math.nan,
        "train_loss": train.get("loss"),
        **(entries("validation", validation) if validation else {}),
        **entries("test", test),
        "best": best,
        "rejected": tally.rejected,
        "parameters": run.parameters,
        **({"vectorised": runs} if runs > 1 else {}),
        **described(),
    }
    if outcome.reason:
        summary["reason"] = outcome.reason
    return cast(Summary, summary)
