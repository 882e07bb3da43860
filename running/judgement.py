"""The number that a searching sweeper minimises."""

from collections.abc import Mapping
from typing import Any

from .exit_codes import ExitCode


def final_loss(summary: Mapping[str, Any]) -> float | None:
    """The loss of a run's final model, from its summary; None if the run is not finished.

    The loss is that of the validation part, or, if there is none, of the training part. The test
    part is never used to choose anything.
    """
    if summary.get("exit_code") != ExitCode.FINISHED:
        return None
    return summary.get("validation_loss", summary.get("train_loss"))
