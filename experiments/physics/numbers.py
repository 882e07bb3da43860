"""The numbers of a run, and their spread over the seeds."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.harness.command import summary
from experiments.harness.levels import reached

from .errors import error_curve
from .methods import LEVELS


def numbers(run: Path) -> dict[str, Any]:
    """Steps and seconds to each error level (None if not reached), and the values at the end."""
    curve, end = error_curve(run), summary(run)
    found: dict[str, Any] = {"seed": end["seed"]}
    for level in LEVELS:
        point = reached(curve, level)
        found[f"steps to {level:g}"] = point and point.step
        found[f"seconds to {level:g}"] = point and point.seconds
    return found | {
        "steps": end["steps"],
        "seconds": curve[-1].seconds,
        "compilation": end["compile_seconds"],
        "l2_error": end["test"]["l2_error"],
    }


def median_cell(values: Sequence[float | None]) -> str:
    """The median; a level that was not reached counts as infinite."""
    return _shown(statistics.median_low(_known(values)))


def spread_cell(values: Sequence[float | None]) -> str:
    """Median (smallest to largest); a level that was not reached counts as infinite."""
    known = _known(values)
    low, high = _shown(known[0]), _shown(known[-1])
    return "–" if math.isinf(known[0]) else f"{median_cell(values)} ({low} to {high})"


def _known(values: Sequence[float | None]) -> list[float]:
    return sorted(math.inf if value is None else value for value in values)


def _shown(value: float) -> str:
    return "–" if math.isinf(value) else f"{value:.3g}"
