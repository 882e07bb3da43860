"""The deeper autoencoder of the published K-FAC runs, with ReLU: the loss per epoch."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from data import Dataset
from experiments.comparison import rivals
from experiments.comparison.curves import Curve
from experiments.comparison.method import Method, Setting, label
from experiments.comparison.runs import TUNING_SEED, Runs
from experiments.markdown import table
from training import machine

from . import figure
from .methods import kfac
from .problem import BATCH_SIZE, OBJECTIVE, deep

TEMPLATE = Path(__file__).with_name("deep.md")
SEED = 0
EPOCHS, TUNING_EPOCHS = 45, 10
SHOWN = (1, 2, 3, 6, 10, 20, 30, 45)
MAKE = {"K-FAC": kfac, "Adam": functools.partial(rivals.adam, OBJECTIVE)}
GRIDS: dict[str, list[Setting]] = {
    "K-FAC": [{"damping": damping, "every": 20, "examples": 500} for damping in (3.0, 10.0, 30.0)],
    "Adam": [{"learning_rate": rate} for rate in (3e-4, 1e-3, 2e-3, 3e-3)],
}


def compare(dataset: Dataset, folder: Path, kept: Path) -> None:
    """Tune on one seed, run on another, draw and write `autoencoder_deep.json, .md, .png`."""
    assert dataset.num_train is not None
    per_epoch = dataset.num_train // BATCH_SIZE
    runs = Runs(deep(dataset), kept)
    tuned, curves, models = {}, {}, {}
    for name, grid in GRIDS.items():
        method = Method(MAKE[name], grid, [], per_epoch, TUNING_EPOCHS * per_epoch, scheduled=False)
        best, tuned[name] = runs.lowest(name, method)
        title = f"{name}({label(best)})"
        method = method._replace(steps=EPOCHS * per_epoch)
        curves[title], models[title] = runs.made(name, method, best, SEED)
    figure.draw(
        {name: [curve] for name, curve in curves.items()},
        models,
        dataset,
        folder / "autoencoder_deep.png",
    )
    about = machine.describe()
    text = TEMPLATE.read_text(encoding="utf-8").format(
        versions=machine.versions_in_one_line(about),
        python=about["python"],
        processor=about["processor"],
        cores=about["cores"],
        seed=SEED,
        tuning_seed=TUNING_SEED,
        tuning_epochs=TUNING_EPOCHS,
        table=_by_epoch(curves),
        tuning=table(
            ["method", "setting", f"loss after {TUNING_EPOCHS} epochs"],
            [
                [name, label(setting), f"{curve[-1].loss:.1f}"]
                for name, tried in tuned.items()
                for setting, curve in tried
            ],
        ),
    )
    (folder / "autoencoder_deep.md").write_text(text, encoding="utf-8")
    results = {
        "machine": about,
        "seed": SEED,
        "curves": curves,
        "tuning": {
            name: {label(setting): curve for setting, curve in tried}
            for name, tried in tuned.items()
        },
    }
    (folder / "autoencoder_deep.json").write_text(json.dumps(results) + "\n", encoding="utf-8")


def _by_epoch(curves: Mapping[str, Curve]) -> str:
    header = ["epochs"]
    for name in curves:
        header += [name, "processor seconds"]
    rows = []
    for epoch in SHOWN:
        points = [curve[epoch] for curve in curves.values() if epoch < len(curve)]
        cells = [cell for p in points for cell in (f"{p.loss:.1f}", f"{p.processor_seconds:.0f}")]
        rows.append([str(epoch), *cells])
    return table(header, rows)
