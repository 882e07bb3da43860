"""What `train` returns and writes to `summary.json`."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, cast

from running.exit_codes import ExitCode

from ._base import Run, Tally
from .provenance import collect_provenance

Status = Literal["finished", "diverged", "interrupted", "failed"]


class Outcome(NamedTuple):
    """How a run ended. `reason` is a sentence, empty for a finished run."""

    status: Status
    exit_code: ExitCode
    reason: str = ""


FINISHED = Outcome("finished", ExitCode.FINISHED)


def final_outcome(
    outcome: Outcome, tally: Tally, losses: Mapping[str, Mapping[str, float]]
) -> Outcome:
    """The final outcome: `diverged` if no step was accepted, or if a final loss is not finite.

    **Arguments:** `losses`: what `evaluate` returned for each part of the data.
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

    - `step`: the number of the step after which it was reached.
    - `by`: the loss that chose it: `validation_loss`, or without a validation part `train_loss`,
        the mean loss of the batches of the epoch that ended at `step`.
    - `loss`: the value of that loss.
    """

    step: int
    by: str
    loss: float


class Summary(TypedDict):
    """The main numbers of a run; losses are those of the final model over the whole part.

    The final model is the one that `curvature.evaluated` returns, which may be an average of the
    weights; it is in `model.eqx`.

    - `status`, `reason` (unless finished), `exit_code`: how it ended.
    - `steps`, `epochs`: the steps taken, and the same in passes over the training part.
    - `rejected`: the number of steps that were rejected and left the weights unchanged.
    - `seconds`: time spent in training, including compilation, over all resumptions. If one program
        trains several runs, its time is divided evenly among them.
    - `compile_seconds`: the part of `seconds` that was spent on compiling the step.
    - `processor_seconds`, `compile_processor_seconds`: the same times as the sum over all cores
        that the process used.
    - `gradient_equivalents`, `gradient_equivalents_per_step`: the cost in units of one gradient of
        the loss on the same batch, of all steps and on average, see `cost.Cost`; NaN if not known.
    - `train_loss`, `test_loss`, `test` (the metrics, such as `accuracy`): None and empty if the run
        ended before they were computed.
    - `validation_loss`, `validation`: the same for the validation part, if there is one.
    - `best`: the best state of the run, never chosen by the test part; None if there is none.
    - `machine`, `git`: device and versions, and the commit of the code.
    - `vectorised`: the number of runs that shared the program, if there were several.
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
    processor_seconds: float
    compile_processor_seconds: float
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
    """The result of `evaluate` on a part as entries: `test_loss`, and `test` with the metrics."""
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

    **Arguments:** `runs`: the number of runs that shared the program; `judged_by`: see
    `AbstractEvaluator.judges_by`; `train`, `validation`, `test`: what `evaluate` returned, if
    anything.
    """
    cost = tally.gradient_equivalents
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
        "processor_seconds": tally.processor_seconds,
        "compile_processor_seconds": tally.compile_processor_seconds,
        "gradient_equivalents": cost,
        "gradient_equivalents_per_step": cost / tally.steps if tally.steps else math.nan,
        "train_loss": train.get("loss"),
        **(entries("validation", validation) if validation else {}),
        **entries("test", test),
        "best": best,
        "rejected": tally.rejected,
        "parameters": run.parameters,
        **({"vectorised": runs} if runs > 1 else {}),
        **collect_provenance(),
    }
    if outcome.reason:
        summary["reason"] = outcome.reason
    return cast(Summary, summary)
