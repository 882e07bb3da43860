"""The tables and verdicts, as Markdown."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.markdown import table

from .rank_one import DAMPINGS, Lengths
from .runs import Run
from .study import Outcome


def target(baseline: Outcome) -> float:
    """The final training loss to reach: the baseline's, median over the seeds."""
    return float(np.median([run.train_loss[-1] for run in baseline.runs]))


def steps_to(run: Run, level: float, every: int) -> float:
    """The steps until the training loss is at most `level` for the first time; ∞ if never."""
    found = np.flatnonzero(run.train_loss <= level)
    return float(every * (found[0] + 1)) if len(found) else math.inf


def row(outcome: Outcome, baseline: Outcome) -> dict[str, Any]:
    """The numbers of one method, over the seeds."""
    level, every = target(baseline), outcome.task.every
    steps = [steps_to(run, level, every) for run in outcome.runs]
    losses = [float(run.train_loss[-1]) for run in outcome.runs]
    accuracies = final_accuracies(outcome)
    total = len(outcome.runs[0].batch_loss)
    median = float(np.median(steps))
    return {
        "method": outcome.name,
        "setting": outcome.written(outcome.setting),
        "training loss": losses,
        "last training loss": [run.last_train_loss for run in outcome.runs],
        "test accuracy": accuracies.tolist(),
        "steps": [None if math.isinf(count) else count for count in steps],
        "median steps": None if math.isinf(median) else median,
        "cost": outcome.cost.median,
        "cost range": [outcome.cost.low, outcome.cost.high],
        "ms per step": 1e3 * outcome.seconds / total,
        "time": None if math.isinf(median) else median / total * outcome.cost.median,
        "rejected": sum(run.rejected for run in outcome.runs),
        "diverged": sum(diverged(run) for run in outcome.runs),
    }


def diverged(run: Run) -> bool:
    """Whether the final loss of a run is not finite, or not below that of a uniform guess."""
    return not run.train_loss[-1] < math.log(10)


def final_accuracies(outcome: Outcome) -> Float[np.ndarray, " seeds"]:
    """The final accuracies on the test part, in per cent."""
    return np.array([100 * run.test_accuracy[-1] for run in outcome.runs], float)


def gain(outcome: Outcome, baseline: Outcome) -> tuple[float, float]:
    """The test accuracy minus that of the baseline, and the standard error of the difference."""
    difference = final_accuracies(outcome) - final_accuracies(baseline)
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))


def results_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per method."""
    header = (
        "method", "setting", "training loss at the end", "test accuracy, %", "steps to Adam's loss",
        "ms per step", "cost of a step", "time to Adam's loss",
        "loss of the last weights", "steps rejected",
    )  # fmt: skip
    return table(header, [_cells(row) for row in rows])


def tuning_table(outcomes: dict[str, Outcome]) -> str:
    """The mean final training loss of every setting that was tried."""
    lines = [
        (outcome.name, outcome.written(setting), f"{np.mean(losses):.4f}")
        for outcome in outcomes.values()
        for setting, losses in outcome.tried.items()
        if losses
    ]
    return table(("method", "setting", "training loss at the end"), lines)


def defaults_table(outcomes: dict[str, Outcome]) -> str:
    """The accuracies with the program's defaults."""
    lines = []
    for name, outcome in outcomes.items():
        found = final_accuracies(outcome)
        least, middle = found.min(), np.median(found)
        losses = [run.train_loss[-1] for run in outcome.runs]
        lines.append((name, f"{middle:.2f}", f"{least:.2f}", f"{np.median(losses):.3f}"))
    return table(
        ("curvature", "test accuracy, %", "of the worst seed", "training loss at the end"), lines
    )


def control_table(found: dict[str, Lengths]) -> str:
    """Lengths of the directions for the smallest damping and for damping 1."""
    times = list(found)
    few = [DAMPINGS.index(damping) for damping in (1e-12, 1e-6, 1.0)]
    header = ["C", *(f"{time}, λ = {DAMPINGS[i]:g}" for time in times for i in few)]
    rows = [
        [name, *(f"{found[time].of[name][i]:.2g}" for time in times for i in few)]
        for name in found[times[0]].of
    ]
    about = [
        f"{time}: ‖ḡ‖ = {of.gradient:.3g}, of which {of.outside / of.gradient:.1%} is orthogonal "
        "to the mean gradient of drawn labels."
        for time, of in found.items()
    ]
    return "\n\n".join(["Lengths ‖(C + λI)⁻¹ḡ‖:", table(header, rows), *about])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    losses, accuracies = np.array(row["training loss"]), np.array(row["test accuracy"])
    error = accuracies.std(ddof=1) / math.sqrt(len(accuracies))
    return (
        row["method"],
        row["setting"],
        f"{np.median(losses):.4f} ({losses.min():.4f} to {losses.max():.4f})",
        f"{accuracies.mean():.2f} ± {error:.2f}",
        "never" if row["median steps"] is None else f"{row['median steps']:g}",
        f"{row['ms per step']:.2f}",
        f"{row['cost']:.2f}",
        "–" if row["time"] is None else f"{row['time']:.2f}",
        f"{np.median(row['last training loss']):.4f}",
        str(row["rejected"]),
    )
