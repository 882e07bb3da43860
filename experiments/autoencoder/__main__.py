"""`python -m experiments.autoencoder`: `autoencoder.json, .md, .png`."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import data
from experiments.markdown import versions
from training import machine

from . import deep, figure
from .curves import BATCH_SIZE, Curve
from .levels import LEVELS
from .methods import METHODS, WARM_UP, Setting
from .report import levels_table, steps_of_hessian_free, tuning_table, verdict
from .runs import SEEDS, TUNING_SEED, Runs
from .tuning import SHORTER, SLACK, Tried, label

TEMPLATE = Path(__file__).with_name("template.md")
RECONSTRUCTED = ("K-FAC", "Adam")


def main() -> None:
    """Tune, run, draw and write; runs that are kept are not made again."""
    parser = argparse.ArgumentParser(prog="python -m experiments.autoencoder", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs/results"), help="where to write")
    parser.add_argument(
        "--runs", type=Path, default=Path("outputs/autoencoder"), help="where runs are kept"
    )
    parser.add_argument(
        "--deep", action="store_true", help="the deeper network instead: `autoencoder_deep.*`"
    )
    arguments = parser.parse_args()
    dataset = data.mnist10k()
    if arguments.deep:
        deep.compare(dataset, arguments.folder, arguments.runs)
        return
    runs = Runs(dataset, arguments.runs)
    tuned = {name: runs.tuned(name) for name in METHODS}
    curves, models = {name: [] for name in METHODS}, {}
    for seed in SEEDS:  # all methods of a seed in a row: other work on the machine comes and goes
        for name, (setting, _) in tuned.items():
            curve, model = runs.made(name, setting, seed)
            curves[name].append(curve)
            models.setdefault(name, model)
    print(levels_table(curves), flush=True)
    shown = {name: models[name] for name in RECONSTRUCTED}
    figure.draw(curves, shown, dataset, arguments.folder / "autoencoder.png")
    _write(arguments.folder, curves, tuned)


def _write(
    folder: Path,
    curves: Mapping[str, Sequence[Curve]],
    tuned: Mapping[str, tuple[Setting, Sequence[Tried]]],
) -> None:
    about = machine.describe()
    text = TEMPLATE.read_text().format(
        python=about["python"],
        versions=versions(about),
        processor=about["processor"],
        cores=about["cores"],
        batch_size=BATCH_SIZE,
        tuned_level=LEVELS[-1],
        tuning_seed=TUNING_SEED,
        warm_up=WARM_UP,
        shorter=SHORTER,
        slack=SLACK,
        every=", ".join(f"{method.every} of {name}" for name, method in METHODS.items()),
        most=", ".join(f"{method.steps:,} of {name}" for name, method in METHODS.items()),
        seeds=", ".join(map(str, SEEDS)),
        settings="\n".join(f"- {name}: {label(setting)}" for name, (setting, _) in tuned.items()),
        table=levels_table(curves),
        verdict=verdict(curves),
        hessian_free=steps_of_hessian_free(curves),
        first_seed=SEEDS[0],
        last_steps=", ".join(
            f"{name} after {curves[name][0][-1].step} steps, at {curves[name][0][-1].loss:.1f}"
            for name in RECONSTRUCTED
        ),
        tuning="\n\n".join(
            f"### {name}\n\n{tuning_table(tried)}"
            for name, (_, tried) in tuned.items()
            if len(tried) > 1
        ),
    )
    (folder / "autoencoder.md").write_text(text)
    results = {
        "machine": about,
        "seeds": SEEDS,
        "columns": ["step", "seconds", "processor_seconds", "loss"],
        "curves": {name: [_rounded(curve) for curve in seeds] for name, seeds in curves.items()},
        "settings": {name: setting for name, (setting, _) in tuned.items()},
        "tuning": {
            name: {label(setting): _rounded(curve) for setting, curve in tried}
            for name, (_, tried) in tuned.items()
        },
    }
    (folder / "autoencoder.json").write_text(json.dumps(results) + "\n")


def _rounded(curve: Curve) -> list[list[float]]:
    return [[round(number, 3) for number in point] for point in curve]


if __name__ == "__main__":
    main()
