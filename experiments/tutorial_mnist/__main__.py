"""`python -m experiments.tutorial_mnist [--folder FOLDER]`: `tutorial_mnist.json, .md, *.png`."""

import argparse
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

import curvature as cv
from experiments.markdown import results_folder
from training import machine

from . import figure, rank_one, record, report, verdicts
from .histograms import quantities
from .methods import DEFAULTS, EMPIRICAL, EXACT, FIVE, IN_LARGE, IN_SMALL, LARGE, ONE, SMALL
from .runs import OBJECTIVE, Trainer, initial, parts
from .study import Outcome, study

COMMAND = "python -m experiments.tutorial_mnist --runs outputs/tutorial_mnist"
TEMPLATE = Path(__file__).with_name("template.md")
SEEDS, TUNING_SEEDS, ROUNDS = (0, 1, 2, 3, 4), (100, 101), 3
STUDIES = {
    "small": (SMALL, IN_SMALL, ROUNDS),
    "large": (LARGE, IN_LARGE, ROUNDS),
    "defaults": (SMALL, DEFAULTS, 1),
}
"""Task, methods, and rounds of timing."""
CONTROL_BATCH = 16


def main() -> None:
    """Tune, run, draw and write."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tutorial_mnist")
    parser.add_argument(
        "--folder", type=results_folder, default="docs/results", help="where to write"
    )
    parser.add_argument("--runs", type=Path, required=True, help="where what was run is kept")
    arguments = parser.parse_args()
    folder = arguments.folder
    small, large, defaults = (measured(name, arguments.runs) for name in STUDIES)
    control = _control(small, folder / "tutorial_mnist_rank_one.png")
    _histograms(small, folder / "tutorial_mnist_histograms.png")
    figure.curves([small, large], folder / "tutorial_mnist.png")
    _write(folder, small, large, defaults, control)


def measured(name: str, runs: Path) -> dict[str, Outcome]:
    """One of the studies; it is run unless the folder `runs` has its results."""
    task, methods, rounds = STUDIES[name]
    return study(task, methods, SEEDS, TUNING_SEEDS, rounds=rounds, kept=runs / f"{name}.pickle")


def _control(small: dict[str, Outcome], path: Path) -> dict[str, rank_one.Lengths]:
    """Lengths of directions at the start and the end of Adam's run; and training with ḡ/‖ḡ‖²."""
    ends = {"start": _start(), "end": small["adam"].runs[0].end}
    key, (x, y) = jax.random.key(SEEDS[0]), _batch(CONTROL_BATCH)
    with jax.enable_x64(True):
        found = {
            time: rank_one.lengths(_double(weights), (_double(x), y), key)
            for time, weights in ends.items()
        }
    wrong = Trainer(lambda: cv.FirstOrder(OBJECTIVE, rank_one.descent()), SMALL)
    training = {"ḡ/‖ḡ‖²": wrong.run(SEEDS[0], ()).batch_loss}
    training |= {name: small[name].runs[0].batch_loss for name in ("adam", "exact_fisher")}
    figure.control({f"{time} of Adam's run": of for time, of in found.items()}, training, path)
    return found


def _histograms(small: dict[str, Outcome], path: Path) -> None:
    curvatures = {
        "empirical_fisher": EMPIRICAL,
        "true_fisher 1": ONE,
        "true_fisher 5": FIVE,
        "exact_fisher": EXACT,
    }
    natural = {name: (of, small[name].setting[0]) for name, of in curvatures.items()}
    shown = ("adam", "sgd", *curvatures)
    ends = {name: small[name].runs[0].end for name in shown}
    key, batch = jax.random.key(SEEDS[0]), _batch(SMALL.batch_size)
    found = {
        time: quantities(weights, natural, batch, key)
        for time, weights in (("before", dict.fromkeys(shown, _start())), ("after", ends))
    }
    figure.histograms(found, path)


def _start() -> PyTree[Array]:
    return eqx.filter(initial(SEEDS[0]), eqx.is_array)


def _batch(size: int) -> tuple[Array, Array]:
    (x, y), _ = parts()
    return x[:size], y[:size]


def _double(tree: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def _write(
    folder: Path,
    small: dict[str, Outcome],
    large: dict[str, Outcome],
    defaults: dict[str, Outcome],
    control: dict[str, rank_one.Lengths],
) -> None:
    about = machine.describe()
    rows = {
        "small": [report.row(of, small["adam"]) for of in small.values()],
        "large": [report.row(of, large["adam"]) for of in large.values()],
        "defaults": [report.row(of, small["adam"]) for of in defaults.values()],
    }
    text = TEMPLATE.read_text(encoding="utf-8").format(
        command=COMMAND,
        python=about["python"],
        versions=machine.versions_in_one_line(about),
        cores=about["cores"],
        processor=about["processor"],
        parameters=sum(leaf.size for leaf in jax.tree.leaves(_start())),
        seeds=f"{SEEDS[0]}–{SEEDS[-1]}",
        first_seed=SEEDS[0],
        tuning_seeds=f"{TUNING_SEEDS[0]}–{TUNING_SEEDS[-1]}",
        rounds=ROUNDS,
        control_batch=CONTROL_BATCH,
        small=SMALL,
        large=LARGE,
        verdicts=verdicts.all_of(small, large, defaults),
        small_table=report.results_table(rows["small"]),
        large_table=report.results_table(rows["large"]),
        defaults_table=report.defaults_table(defaults),
        control=report.control_table(control),
        small_tuning=report.tuning_table(small),
        large_tuning=report.tuning_table(large),
    )
    (folder / "tutorial_mnist.md").write_text(text, encoding="utf-8")
    results: dict[str, Any] = {"machine": about, "command": COMMAND, **rows}
    results["curves"] = {
        "small": {name: record.curves(of) for name, of in small.items()},
        "large": {name: record.curves(of) for name, of in large.items()},
    }
    results["tuning"] = {
        "small": {name: record.tried(of) for name, of in small.items()},
        "large": {name: record.tried(of) for name, of in large.items()},
    }
    results["rank one"] = {time: record.lengths(of) for time, of in control.items()}
    (folder / "tutorial_mnist.json").write_text(
        json.dumps(results, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
