"""Physics-informed networks: damped Gauss-Newton compared with Adam, for the same time.

`python -m experiments.physics` writes `physics.json, .md` and a figure for each problem.
"""

from pathlib import Path
from typing import Any

from experiments.harness.command import read_model, summary
from experiments.harness.markdown import table
from experiments.harness.page import parser, write
from experiments.harness.problem import Problem
from experiments.harness.runs import SEEDS, Runs

from . import figure
from .errors import error_curve
from .methods import EXPERIMENTS, RATES, adam, fresh, gauss_newton
from .numbers import numbers, spread
from .published import published_table

PROBE_STEPS = 100
"""Steps of the run of Adam that tells how long one takes."""


def measure(runs: Runs, experiment: str) -> dict[str, list[Path]]:
    """All runs of an experiment; Adam's rate has the lowest training loss for the first seed."""
    ours, points = gauss_newton(experiment), fresh(experiment)
    found = {
        method.name: [runs.run(method, {}, seed) for seed in SEEDS] for method in (ours, points)
    }
    probe = adam(experiment, PROBE_STEPS)
    first = runs.run(probe, probe.grid[0], SEEDS[0])
    per_step = error_curve(first)[-1].seconds / PROBE_STEPS

    def by_adam(rate: dict[str, Any], number: int) -> Path:
        budget = error_curve(found[ours.name][number])[-1].seconds
        steps = max(1, round(budget / per_step))
        return runs.run(adam(experiment, steps), rate, SEEDS[number])

    best = min(probe.grid, key=lambda rate: summary(by_adam(rate, 0))["train_loss"])
    runs_of_adam = [by_adam(best, number) for number in range(len(SEEDS))]
    return found | {f"adam({best['rate']:g})": runs_of_adam}


def section(title: str, by_method: dict[str, list[dict[str, Any]]]) -> str:
    """One experiment in Markdown: medians over the seeds, then the final error of each seed."""
    names = [name for name in next(iter(by_method.values()))[0] if name != "seed"]
    cells = [
        [method, *(spread([row[name] for row in rows]) for name in names)]
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
    arguments = parser("physics", __doc__).parse_args()
    found: dict[str, Any] = {}
    for experiment in EXPERIMENTS:
        runs = Runs(Problem(experiment, (f"experiment={experiment}",), "test"), arguments.runs)
        measured = measure(runs, experiment)
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
