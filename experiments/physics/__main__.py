"""Physics-informed networks: damped Gauss-Newton compared with Adam, for the same time.

`python -m experiments.physics` writes `physics.json, .md` and a figure for each problem.
"""

import math
from pathlib import Path
from typing import Any

from experiments.harness.command import read_model, summary
from experiments.harness.markdown import table
from experiments.harness.method import Setting
from experiments.harness.page import parser, write
from experiments.harness.runs import SEEDS, TUNING_SEEDS, Runs

from . import figure
from .errors import error_curve
from .methods import EXPERIMENTS, FRESH, RATES, adam, gauss_newton, runs_of
from .numbers import numbers, spread_cell
from .published import published_table

PROBE_STEPS = 100
"""Steps of the run of Adam that tells how long one takes."""


def measure(runs: Runs, experiment: str) -> dict[str, list[Path]]:
    """All runs of an experiment; the rate of Adam is tuned by the training loss."""
    ours = gauss_newton(experiment)
    found = {
        method.name: [runs.run(method, {}, seed) for seed in SEEDS] for method in (ours, FRESH)
    }
    (tuning_seed,) = TUNING_SEEDS
    probe = adam(experiment, PROBE_STEPS, PROBE_STEPS)
    first = runs.run(probe, probe.grid[0], tuning_seed)
    per_step = error_curve(first)[-1].seconds / PROBE_STEPS

    def by_adam(rate: Setting, seed: int) -> Path:
        budget = error_curve(runs.run(ours, {}, seed))[-1].seconds
        steps = max(1, round(budget / per_step))
        return runs.run(adam(experiment, steps, max(1, steps // 100)), rate, seed)

    best = min(probe.grid, key=lambda rate: _train_loss(by_adam(rate, tuning_seed)))
    runs_of_adam = [by_adam(best, seed) for seed in SEEDS]
    return found | {f"adam({best['learning_rate']:g})": runs_of_adam}


def _train_loss(run: Path) -> float:
    loss = summary(run)["train_loss"]
    return math.inf if loss is None else loss


def section(title: str, by_method: dict[str, list[dict[str, Any]]]) -> str:
    """One experiment in Markdown: medians over the seeds, then the final error of each seed."""
    names = [name for name in next(iter(by_method.values()))[0] if name != "seed"]
    cells = [
        [method, *(spread_cell([row[name] for row in rows]) for name in names)]
        for method, rows in by_method.items()
    ]
    lines = [f"## {title}", "", table(["", *names], cells)]
    for method, rows in by_method.items():
        errors = ", ".join(f"{row['l2_error']:.2g}" for row in rows)
        seeds = ", ".join(str(row["seed"]) for row in rows)
        lines += ["", f"{method}, final error of seeds {seeds}: {errors}."]
    return "\n".join([*lines, "", f"![{title}](physics_{title}.png)", ""])


def main() -> None:
    """Run what is missing, print the tables, and write numbers, page and figures."""
    arguments = parser("physics", __doc__, runs="physics").parse_args()
    found: dict[str, Any] = {}
    for experiment in EXPERIMENTS:
        measured = measure(runs_of(experiment, arguments.runs), experiment)
        found[experiment] = {name: [*map(numbers, those)] for name, those in measured.items()}
        curves = {name: [*map(error_curve, those)] for name, those in measured.items()}
        file = arguments.folder / f"physics_{experiment}.png"
        figure.draw(file, experiment, curves, read_model(measured["gauss_newton"][0]))
        print(section(experiment, found[experiment]), flush=True)
    write(
        "physics",
        arguments.folder,
        found,
        tables="\n".join(section(experiment, found[experiment]) for experiment in EXPERIMENTS),
        published=published_table(found),
        rates=", ".join(f"{rate:g}" for rate in RATES),
    )


if __name__ == "__main__":
    main()
