"""The loss or a metric of a run against steps and seconds."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from running.files import METRICS

from .command import summary


class Point(NamedTuple):
    """The state of a run after `step` steps.

    - `seconds`: the wall time of the steps, without compilation and evaluation.
    - `processor_seconds`: the CPU time of the same, which does not include that of other programs.
    - `value`: the mean loss over a whole part of the dataset, or a metric; NaN if not finite.
    """

    step: int
    seconds: float
    processor_seconds: float
    value: float


Curve: TypeAlias = list[Point]


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of all steps of a run."""
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def read_curve(folder: Path, part: str, metric: str | None = None) -> Curve:
    """The losses of a part during a run and at its end, or the values of a metric.

    The last value of a run that diverged is NaN.
    """
    end = summary(folder)
    evaluated = [each for each in records(folder) if f"{part}_loss" in each]
    if not evaluated or evaluated[-1]["step"] < end["steps"]:
        evaluated.append(end | {"step": end["steps"]})

    def point(record: dict[str, Any]) -> Point:
        value = record[f"{part}_loss"] if metric is None else record[part][metric]
        return Point(
            record["step"],
            record["seconds"] - end["compile_seconds"],
            record["processor_seconds"] - end["compile_processor_seconds"],
            math.nan if value is None else value,
        )

    curve = [*map(point, evaluated)]
    if end["status"] != "finished":
        curve[-1] = curve[-1]._replace(value=math.nan)
    return curve


def round_curve(curve: Curve) -> list[list[float]]:
    """A curve for publication: seconds to the millisecond, losses to five digits."""
    return [
        [p.step, round(p.seconds, 3), round(p.processor_seconds, 3), float(f"{p.value:.5g}")]
        for p in curve
    ]
