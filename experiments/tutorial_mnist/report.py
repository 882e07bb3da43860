"""The tables and verdicts, as Markdown."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from experiments.harness.levels import Spread, ratio, reached
from experiments.harness.markdown import table
from experiments.harness.method import label

from .outcome import Outcome, Run
from .rank_one import DAMPINGS, Lengths


def target(baseline: Outcome) -> float:
    """The final training loss to reach: the baseline's, median over the seeds."""
    return statistics.median(run.last_loss for run in baseline.runs)


def steps_to(run: Run, level: float) -> float:
    """The steps until the training loss is at most `level` for the first time; ∞ if never."""
    point = reached(run.train, level)
    return math.inf if point is None else point.step


def cost(outcome: Outcome, baseline: Outcome) -> Spread:
    """The processor seconds over those of the baseline, seed by seed."""
    ours, theirs = ([run.train[-1] for run in of.runs] for of in (outcome, baseline))
    found = ratio(ours, theirs, "processor_seconds")
    assert found is not None
    return found


def row(outcome: Outcome, baseline: Outcome) -> dict[str, Any]:
    """The numbers of one method, over the seeds."""
    level, total = target(baseline), max(run.train[-1].step for run in baseline.runs)
    steps = [steps_to(run, level) for run in outcome.runs]
    median, ours = statistics.median(steps), cost(outcome, baseline)
    return {
        "method": outcome.name,
        "setting": label(outcome.setting),
        "training loss": [run.last_loss for run in outcome.runs],
        "test accuracy": final_accuracies(outcome),
        "steps": [None if math.isinf(count) else count for count in steps],
        "median steps": None if math.isinf(median) else median,
        "cost": ours,
        "ms per step": 1e3 * outcome.seconds_per_step,
        "time": None if math.isinf(median) else median / total * ours.median,
        "rejected": sum(run.rejected for run in outcome.runs),
        "diverged": sum(diverged(run) for run in outcome.runs),
    }


def diverged(run: Run) -> bool:
    """Whether the final loss of a run is not finite, or not below that of a uniform guess."""
    return not run.last_loss < math.log(10)


def final_accuracies(outcome: Outcome) -> list[float]:
    """The final accuracies on the test part, in per cent."""
    return [run.last_accuracy for run in outcome.runs]


def gain(outcome: Outcome, baseline: Outcome) -> tuple[float, float]:
    """The test accuracy minus that of the baseline, and the standard error of the difference."""
    pairs = zip(final_accuracies(outcome), final_accuracies(baseline), strict=True)
    return _mean_and_error([ours - theirs for ours, theirs in pairs])


def results_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per method."""
    header = (
        *("method", "setting", "training loss at the end", "test accuracy, %"),
        *("steps to Adam's loss", "ms per step", "cost of a step", "time to Adam's loss"),
        "steps rejected",
    )
    return table(header, [_cells(row) for row in rows])


def tuning_table(outcomes: dict[str, Outcome]) -> str:
    """The mean final training loss of every setting that was tried."""
    lines = [
        (outcome.name, label(each.setting), f"{each.last_loss:.4f}")
        for outcome in outcomes.values()
        for each in outcome.tried
    ]
    return table(("method", "setting", "training loss at the end"), lines)


def defaults_table(outcomes: dict[str, Outcome]) -> str:
    """The accuracies with the program's defaults."""
    lines = []
    for name, outcome in outcomes.items():
        found = final_accuracies(outcome)
        loss = statistics.median(run.last_loss for run in outcome.runs)
        cells = f"{statistics.median(found):.2f}", f"{min(found):.2f}", f"{loss:.3f}"
        lines.append((name, *cells))
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


def _mean_and_error(numbers: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(numbers), statistics.stdev(numbers) / math.sqrt(len(numbers))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    losses = row["training loss"]
    mean, error = _mean_and_error(row["test accuracy"])
    return (
        row["method"],
        row["setting"],
        f"{statistics.median(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})",
        f"{mean:.2f} ± {error:.2f}",
        "never" if row["median steps"] is None else f"{row['median steps']:g}",
        f"{row['ms per step']:.2f}",
        f"{row['cost'].median:.2f}",
        "–" if row["time"] is None else f"{row['time']:.2f}",
        str(row["rejected"]),
    )
