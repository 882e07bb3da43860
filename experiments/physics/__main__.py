"""Physics-informed networks: damped Gauss-Newton compared with Adam, for the same time.

python -m experiments.physics --runs outputs/physics --into docs/results
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from experiments import markdown
from training import machine

from . import figure
from .runs import adam, by_adam, curve, gauss_newton, resampled, summary, train, training_seconds

EXPERIMENTS = ("poisson2d", "heat", "poisson5d")
LEVELS = (1e-4, 1e-6)
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
PROBE_STEPS = 100
"""Steps of the run of Adam that tells how long one takes."""


def measure(runs: Path, experiment: str, seeds: range) -> dict[str, list[Path]]:
    """All runs of an experiment; Adam's rate has the lowest training loss for the first seed."""
    ours = [gauss_newton(runs, experiment, seed) for seed in seeds]
    seconds = [training_seconds(run) for run in ours]
    probe = train(
        runs / f"{experiment}_adam_probe",
        *by_adam(experiment, seeds[0], RATES[0], PROBE_STEPS),
        "evaluate_every=null",
    )
    per_step = training_seconds(probe) / PROBE_STEPS

    def at_rate(number: int, rate: float) -> Path:
        seed, budget = seeds[number], seconds[number]
        return adam(runs, experiment, seed, rate=rate, seconds=budget, per_step=per_step)

    best = min(RATES, key=lambda rate: summary(at_rate(0, rate))["train_loss"])
    return {
        "gauss_newton": ours,
        "gauss_newton, fresh points": [resampled(runs, experiment, seed) for seed in seeds],
        f"adam({best:g})": [at_rate(number, best) for number in range(len(seeds))],
    }


def figures_of(run: Path) -> dict[str, Any]:
    """Steps and seconds to each error level (None if not reached), and the values at the end."""
    points = curve(run)
    found: dict[str, Any] = {"seed": summary(run)["seed"]}
    for level in LEVELS:
        reached = [(step, seconds) for step, seconds, error in points if error <= level]
        step, seconds = reached[0] if reached else (None, None)
        found |= {f"steps to {level:g}": step, f"seconds to {level:g}": seconds}
    return found | {
        "steps": summary(run)["steps"],
        "seconds": training_seconds(run),
        "compilation": summary(run)["compile_seconds"],
        "l2_error": summary(run)["test"]["l2_error"],
    }


def spread(values: list[Any]) -> str:
    """Median (smallest–largest); a level that was not reached counts as infinite."""
    known = sorted(float("inf") if value is None else value for value in values)

    def shown(value: float) -> str:
        return "–" if value == float("inf") else f"{value:.3g}"

    median, low, high = statistics.median_low(known), known[0], known[-1]
    return "–" if low == float("inf") else f"{shown(median)} ({shown(low)} to {shown(high)})"


def table(title: str, by_optimiser: dict[str, list[dict[str, Any]]]) -> str:
    """One experiment in Markdown: medians over the seeds, then the final error of each seed."""
    names = [name for name in next(iter(by_optimiser.values()))[0] if name != "seed"]
    cells = [
        [optimiser, *(spread([row[name] for row in rows]) for name in names)]
        for optimiser, rows in by_optimiser.items()
    ]
    lines = [f"## {title}", "", markdown.table(["", *names], cells)]
    for optimiser, rows in by_optimiser.items():
        errors = ", ".join(f"{row['l2_error']:.2g}" for row in rows)
        seeds = ", ".join(str(row["seed"]) for row in rows)
        lines += ["", f"{optimiser}, final error of seeds {seeds}: {errors}."]
    return "\n".join([*lines, "", f"![{title}](physics_{title}.png)", ""])


def main() -> None:
    """Run what is missing, print the tables, and write numbers and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are kept")
    parser.add_argument(
        "--into", type=markdown.results_folder, required=True, help="where the results are written"
    )
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    runs = arguments.runs.resolve()
    found: dict[str, Any] = {"machine": machine.describe()}
    for experiment in EXPERIMENTS:
        measured = measure(runs, experiment, range(arguments.seeds))
        found[experiment] = {name: [*map(figures_of, those)] for name, those in measured.items()}
        curves = {name: [*map(curve, those)] for name, those in measured.items()}
        file = arguments.into / f"physics_{experiment}.png"
        figure.draw(file, experiment, curves, measured["gauss_newton"][0])
        print(table(experiment, found[experiment]), flush=True)
    (arguments.into / "physics.json").write_text(
        json.dumps(found, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
