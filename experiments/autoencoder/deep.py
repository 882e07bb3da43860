"""The deeper autoencoder of the published K-FAC runs, with ReLU: the loss per epoch.

`python -m experiments.autoencoder.deep` writes `autoencoder_deep.json, .md, .png`.
"""

import functools
from collections.abc import Mapping

from experiments.harness.command import read_model
from experiments.harness.curves import Curve, Point
from experiments.harness.markdown import table
from experiments.harness.method import Method, label, settings
from experiments.harness.optimisers import first_order, martens_grosse
from experiments.harness.page import parser, write
from experiments.harness.runs import Runs
from experiments.harness.tuning import lowest

from . import figure
from .problem import DEEP

SEED = 0
PER_EPOCH, EPOCHS, TUNING_EPOCHS = 8, 45, 10
SHOWN = (1, 2, 3, 6, 10, 20, 30, 45)
OURS = [{"damping": damping, "every": 20, "examples": 500} for damping in (3.0, 10.0, 30.0)]
RATES = settings("learning_rate", 3e-4, 1e-3, 2e-3, 3e-3)
METHODS = (
    Method("K-FAC", martens_grosse("kfac"), OURS, TUNING_EPOCHS * PER_EPOCH, PER_EPOCH),
    Method("Adam", first_order("adam"), RATES, TUNING_EPOCHS * PER_EPOCH, PER_EPOCH),
)


def main() -> None:
    """Tune on one seed, run on another, draw and write."""
    arguments = parser("autoencoder.deep", __doc__, runs="autoencoder").parse_args()
    runs, tuning, curves, models = Runs(DEEP, arguments.runs), [], {}, {}
    for method in METHODS:
        best, tried = lowest(method, functools.partial(runs.tried, method))
        title, long = f"{method.name}({label(best)})", method._replace(steps=EPOCHS * PER_EPOCH)
        curves[title] = runs.curve(long, best, SEED)
        models[title] = read_model(runs.run(long, best, SEED))
        tuning += [[method.name, label(e.setting), f"{e.last_loss:.1f}"] for e in tried]
    path = arguments.folder / "autoencoder_deep.png"
    figure.draw({name: [curve] for name, curve in curves.items()}, models, path)
    write(
        "autoencoder_deep",
        arguments.folder,
        {"seed": SEED, "curves": curves, "tuning": tuning},
        seed=SEED,
        tuning_epochs=TUNING_EPOCHS,
        table=by_epoch(curves),
        tuning=table(["method", "setting", f"loss after {TUNING_EPOCHS} epochs"], tuning),
    )


def by_epoch(curves: Mapping[str, Curve]) -> str:
    """The losses and processor seconds of every method after some epochs."""
    header = ["epochs"]
    for name in curves:
        header += [name, "processor seconds"]
    rows = []
    for epoch in SHOWN:
        row = [str(epoch)]
        for curve in curves.values():
            point = curve[epoch - 1] if epoch <= len(curve) else None
            row += ["–", "–"] if point is None else _cells(point)
        rows.append(row)
    return table(header, rows)


def _cells(point: Point) -> list[str]:
    return [f"{point.value:.1f}", f"{point.processor_seconds:.0f}"]


if __name__ == "__main__":
    main()
