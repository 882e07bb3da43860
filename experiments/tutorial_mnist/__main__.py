"""The tutorial's network: first order beside natural gradients, and why its gradients blew up.

`python -m experiments.tutorial_mnist` writes `tutorial_mnist.json, .md` and three figures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

import data
from experiments.harness.command import make_initial_model, read_model
from experiments.harness.page import parser, write
from experiments.harness.runs import SEEDS, Runs

from . import figure, rank_one, report, verdicts
from .curvatures import CURVATURES
from .histograms import quantities
from .methods import BATCH_SIZE, DEFAULTS, IN_LARGE, IN_SMALL, LARGE, SMALL, WRONG
from .outcome import TUNING_SEEDS, Outcome, plain, read_run, study

CONTROL_BATCH = 16


def main() -> None:
    """Tune, run, draw and write; runs that are already on disk are not repeated."""
    arguments = parser("tutorial_mnist", __doc__, runs="tutorial_mnist").parse_args()
    folder = arguments.folder
    runs = Runs(SMALL, arguments.runs)
    small, defaults = study(runs, IN_SMALL), study(runs, DEFAULTS)
    large = study(Runs(LARGE, arguments.runs), IN_LARGE)
    wrong = read_run(runs.run(WRONG, {}, SEEDS[0])).batch_loss
    control = _control(small, wrong, folder / "tutorial_mnist_rank_one.png")
    _histograms(small, folder / "tutorial_mnist_histograms.png")
    figure.curves({SMALL.name: small, LARGE.name: large}, folder / "tutorial_mnist.png")
    publish(folder, small, large, defaults, control)


def _control(
    small: dict[str, Outcome], wrong: list[float], path: Path
) -> dict[str, rank_one.Lengths]:
    """Lengths of directions at the start and the end of Adam's run; and training with ḡ/‖ḡ‖²."""
    run = small["adam"].runs[0].folder
    models = {"start": make_initial_model(run), "end": read_model(run)}
    key, (x, y) = jax.random.key(SEEDS[0]), _batch(CONTROL_BATCH)
    with jax.enable_x64(True):
        found = {
            time: rank_one.lengths(_double(model), (_double(x), y), key)
            for time, model in models.items()
        }
    training: dict[str, Sequence[float]] = {WRONG.name: wrong}
    training |= {name: small[name].runs[0].batch_loss for name in ("adam", "exact_fisher")}
    figure.control({f"{time} of Adam's run": of for time, of in found.items()}, training, path)
    return found


def _histograms(small: dict[str, Outcome], path: Path) -> None:
    natural = {
        name: (fisher.curvature, small[name].setting["damping"])
        for name, fisher in CURVATURES.items()
    }
    shown = ("adam", "sgd", *CURVATURES)
    ends = {name: read_model(small[name].runs[0].folder) for name in shown}
    start = dict.fromkeys(shown, make_initial_model(small["adam"].runs[0].folder))
    key, batch = jax.random.key(SEEDS[0]), _batch(BATCH_SIZE)
    found = {
        time: quantities(models, natural, batch, key)
        for time, models in (("before", start), ("after", ends))
    }
    figure.histograms(found, path)


def _batch(size: int) -> tuple[Array, Array]:
    x, y = data.mnist10k().train
    return jnp.asarray(x[:size]), jnp.asarray(y[:size])


def _double(tree: PyTree) -> PyTree:
    arrays, static = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), arrays), static)


def publish(
    folder: Path,
    small: dict[str, Outcome],
    large: dict[str, Outcome],
    defaults: dict[str, Outcome],
    control: dict[str, rank_one.Lengths],
) -> None:
    """Write `tutorial_mnist.md` and `.json`."""
    studies = {"small": small, "large": large, "defaults": defaults}
    rows = {
        name: [
            report.row(of, (large if name == "large" else small)["adam"]) for of in those.values()
        ]
        for name, those in studies.items()
    }
    results: dict[str, Any] = dict(rows)
    results["curves"] = {
        name: {method: plain(of) for method, of in those.items()} for name, those in studies.items()
    }
    results["rank one"] = {time: of.plain() for time, of in control.items()}
    write(
        "tutorial_mnist",
        folder,
        results,
        seeds=f"{SEEDS[0]} to {SEEDS[-1]}",
        first_seed=SEEDS[0],
        tuning_seeds=f"{TUNING_SEEDS[0]} and {TUNING_SEEDS[-1]}",
        control_batch=CONTROL_BATCH,
        verdicts=verdicts.all_of(small, large, defaults),
        small_table=report.results_table(rows["small"]),
        large_table=report.results_table(rows["large"]),
        defaults_table=report.defaults_table(defaults),
        control=report.control_table(control),
        small_tuning=report.tuning_table(small),
        large_tuning=report.tuning_table(large),
    )


if __name__ == "__main__":
    main()
