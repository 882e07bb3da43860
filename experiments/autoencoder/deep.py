"""The deeper autoencoder of the published runs of K-FAC, with ReLU: the loss by epoch."""

import json
from collections.abc import Mapping
from pathlib import Path

from data import Dataset
from experiments.markdown import table, versions
from training import machine

from . import figure
from .curves import BATCH_SIZE, DEEP, Curve, initial_model, run
from .methods import Setting, adam, kfac
from .runs import TUNING_SEED
from .store import Made, kept
from .tuning import label

TEMPLATE = Path(__file__).with_name("deep.md")
SEED = 0
EPOCHS, TUNING_EPOCHS = 45, 10
SHOWN = (1, 2, 3, 6, 10, 20, 30, 45)
MAKE = {"K-FAC": kfac, "Adam": adam}
GRIDS: dict[str, list[Setting]] = {
    "K-FAC": [{"damping": damping, "every": 20, "examples": 500} for damping in (3.0, 10.0, 30.0)],
    "Adam": [{"learning_rate": rate} for rate in (3e-4, 1e-3, 2e-3, 3e-3)],
}


def compare(dataset: Dataset, folder: Path, runs: Path) -> None:
    """Tune on one seed, run on another, draw and write `autoencoder_deep.json, .md, .png`."""
    assert dataset.num_train is not None
    per_epoch = dataset.num_train // BATCH_SIZE
    like = initial_model(dataset, SEED, DEEP)

    def made(name: str, setting: Setting, seed: int, epochs: int) -> Made:
        def make() -> Made:
            optimiser, steps = MAKE[name](**setting), epochs * per_epoch
            return run(
                optimiser, dataset, seed, steps=steps, every=per_epoch, until=0.0, network=DEEP
            )

        file = f"deep_{name}_{label(setting)}_{seed}".replace(" ", "_").replace(",", "")
        return kept(runs / file, make, like)

    tuned, curves, models = {}, {}, {}
    for name, grid in GRIDS.items():
        tried = [made(name, setting, TUNING_SEED, TUNING_EPOCHS)[0] for setting in grid]
        best = min(range(len(grid)), key=lambda index: tried[index][-1].loss)
        tuned[name] = {label(each): curve for each, curve in zip(grid, tried, strict=True)}
        title = f"{name}({label(grid[best])})"
        curves[title], models[title] = made(name, grid[best], SEED, EPOCHS)
    figure.draw(
        {name: [curve] for name, curve in curves.items()},
        models,
        dataset,
        folder / "autoencoder_deep.png",
    )
    about = machine.describe()
    text = TEMPLATE.read_text().format(
        versions=versions(about),
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
                [name, setting, f"{curve[-1].loss:.1f}"]
                for name, of_method in tuned.items()
                for setting, curve in of_method.items()
            ],
        ),
    )
    (folder / "autoencoder_deep.md").write_text(text)
    results = {"machine": about, "seed": SEED, "curves": curves, "tuning": tuned}
    (folder / "autoencoder_deep.json").write_text(json.dumps(results) + "\n")


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
