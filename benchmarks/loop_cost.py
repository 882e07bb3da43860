"""What the training loop adds to a step: data, logging, dispatch."""

import contextlib
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import curvature as cv
import training

from . import stepping
from .problems import Problem
from .timing import Ratio, Rounds

_EPOCHS = 4


def measure(
    problem: Problem, name: str, optimiser: cv.AbstractOptimiser, rounds: int
) -> dict[str, Any]:
    """The time per step of whole training runs, less that of the same steps inside a scan."""
    scan = Rounds({"scan": stepping.scan_steps(problem, optimiser)}, rounds)
    step = scan.median("scan") / problem.batches
    looped = [_seconds_per_step(problem, optimiser) for _ in range(rounds)]
    added = Ratio(
        *(1e3 * (f(looped) - step) for f in (statistics.median, min, max)),
    )
    share = Ratio(added.median / step / 10, added.low / step / 10, added.high / step / 10)
    return {
        "problem": problem.name,
        "curvature": name,
        "added, ms": added,
        "of the step, %": share,
    }


def _seconds_per_step(problem: Problem, optimiser: cv.AbstractOptimiser) -> float:
    settings = training.Settings(
        seed=0, batch_size=problem.batch_size, epochs=_EPOCHS, max_steps=None
    )
    run = training.Run(
        problem.model(), optimiser, stepping.as_dataset(problem), settings, {}, "benchmark"
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        summary = training.train(run, Path(folder))
    return (summary["seconds"] - summary["compile_seconds"]) / summary["steps"]
