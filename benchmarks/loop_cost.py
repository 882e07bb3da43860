"""The time that the training loop adds to a step, for data, logging and dispatch."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import curvature as cv
import training

from . import stepping
from .problems import Problem
from .timing import Ratio, Rounds

_EPOCHS = 16  # enough for the one checkpoint at the end not to count


def measure(
    problem: Problem, name: str, optimiser: cv.AbstractOptimiser, rounds: int
) -> dict[str, Any]:
    """The time per step of a whole training run, minus that of the same steps inside a scan."""
    steps, added, share = stepping.scan_steps(problem, optimiser), [], []
    for _ in range(rounds):
        scan = Rounds({"scan": steps}, 1).median("scan") / problem.batches
        extra = _seconds_per_step(problem, optimiser) - scan
        added.append(1e3 * extra)
        share.append(100 * extra / scan)
    return {
        "curvature": name,
        "added, ms": Ratio.over(added),
        "of the step, %": Ratio.over(share),
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
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        summary = training.train(run, Path(folder))
    return (summary["seconds"] - summary["compile_seconds"]) / summary["steps"]
