"""By which number a sweeper that searches judges a run."""

from collections.abc import Mapping
from typing import Any

from .exit_codes import ExitCode


def judged_loss(summary: Mapping[str, Any]) -> float | None:
    """The loss of a run's final model, from its summary; None where the run is not finished.

    On the validation part, or where nothing is held out on the training part: nothing is ever
    chosen on the test part.
    """
    if summary.get("exit_code") != ExitCode.FINISHED:
        return None
    return summary.get("validation_loss", summary.get("train_loss"))
