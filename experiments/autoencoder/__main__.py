"""`python -m experiments.autoencoder [--folder FOLDER]`: `autoencoder.json, .md, .png`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import equinox as eqx

import data
from benchmarks import machine

from . import figure
from .curves import BATCH_SIZE, Curve, run
from .levels import LEVELS, best
from .methods import RATES, adam, hessian_free
from .report import levels_table, tuning_table, verdict

TEMPLATE = Path(__file__).with_name("template.md")
SEEDS = (0, 1, 2)
TUNING_SEED = 100
HESSIAN_FREE_STEPS, ADAM_STEPS, TUNING_STEPS = 150, 3000, 1000
ADAM_EVERY = 10
"""Steps of Adam between two evaluations."""


def main() -> None:
    """Tune, run, draw and write."""
    parser = argparse.ArgumentParser(prog="python -m experiments.autoencoder", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs/results"), help="where to write")
    folder = parser.parse_args().folder
    dataset, level = data.mnist10k(), LEVELS[0]
    tried = {
        rate: run(
            adam(rate), dataset, TUNING_SEED, steps=TUNING_STEPS, every=ADAM_EVERY, until=level
        )[0]
        for rate in RATES
    }
    rate = RATES[best(list(tried.values()), level)]
    print(tuning_table(tried), flush=True)
    methods = {
        "Hessian-free": (hessian_free(), HESSIAN_FREE_STEPS, 1),
        f"Adam({rate:g})": (adam(rate), ADAM_STEPS, ADAM_EVERY),
    }
    curves: dict[str, list[Curve]] = {name: [] for name in methods}
    models: dict[str, eqx.Module] = {}
    for seed in SEEDS:
        for name, (optimiser, steps, every) in methods.items():
            curve, model = run(optimiser, dataset, seed, steps=steps, every=every, until=LEVELS[-1])
            curves[name].append(curve)
            models.setdefault(name, model)
            print(f"{name}, seed {seed}: {curve[-1]}", flush=True)
    figure.draw(curves, models, dataset, folder / "autoencoder.png")
    _write(folder, curves, tried, rate)


def _write(
    folder: Path, curves: dict[str, list[Curve]], tried: dict[float, Curve], rate: float
) -> None:
    about = machine.describe()
    text = TEMPLATE.read_text().format(
        python=about["python"],
        versions=", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        processor=about["processor"],
        cores=about["cores"],
        batch_size=BATCH_SIZE,
        tuned_level=LEVELS[0],
        tuning_seed=TUNING_SEED,
        rate=rate,
        every=ADAM_EVERY,
        seeds=", ".join(map(str, SEEDS)),
        table=levels_table(curves),
        verdict=verdict(curves),
        first_seed=SEEDS[0],
        last_level=LEVELS[-1],
        last_steps=", ".join(
            f"{name} after {seeds[0][-1].step} steps" for name, seeds in curves.items()
        ),
        tuning_steps=TUNING_STEPS,
        tuning=tuning_table(tried),
    )
    (folder / "autoencoder.md").write_text(text)
    results = {
        "machine": about,
        "seeds": SEEDS,
        "columns": ["step", "seconds", "processor_seconds", "loss"],
        "curves": {name: _rounded(seeds) for name, seeds in curves.items()},
        "tuning": {f"{rate:g}": _rounded([curve])[0] for rate, curve in tried.items()},
    }
    (folder / "autoencoder.json").write_text(json.dumps(results) + "\n")


def _rounded(curves: Sequence[Curve]) -> list[list[list[float]]]:
    return [[[round(number, 3) for number in point] for point in curve] for curve in curves]


if __name__ == "__main__":
    main()
