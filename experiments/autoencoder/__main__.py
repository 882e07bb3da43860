"""`python -m experiments.autoencoder`: `autoencoder.json, .md, .png`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import data
from experiments.markdown import versions
from training import machine

from . import figure
from .curves import BATCH_SIZE, Curve, initial_model, run
from .levels import LEVELS, best
from .methods import RATES, adam, hessian_free
from .report import levels_table, tuning_table, verdict
from .store import Made, kept

TEMPLATE = Path(__file__).with_name("template.md")
SEEDS = (0, 1, 2)
TUNING_SEED = 100
HESSIAN_FREE_STEPS, ADAM_STEPS, TUNING_STEPS = 200, 3000, 600
ADAM_EVERY = 20
"""Steps of Adam between two evaluations."""


def main() -> None:
    """Tune, run, draw and write; runs that are kept are not made again."""
    parser = argparse.ArgumentParser(prog="python -m experiments.autoencoder", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs/results"), help="where to write")
    parser.add_argument(
        "--runs", type=Path, default=Path("outputs/autoencoder"), help="where runs are kept"
    )
    arguments = parser.parse_args()
    dataset, runs = data.mnist10k(), arguments.runs
    like = initial_model(dataset, TUNING_SEED)

    def by_adam(rate: float, seed: int, steps: int, until: float) -> Made:
        def make() -> Made:
            return run(adam(rate), dataset, seed, steps=steps, every=ADAM_EVERY, until=until)

        return kept(runs / f"adam_{rate:g}_{seed}", make, like)

    def by_hessian_free(seed: int) -> Made:
        def make() -> Made:
            steps, until = HESSIAN_FREE_STEPS, LEVELS[-1]
            return run(hessian_free(), dataset, seed, steps=steps, every=1, until=until)

        return kept(runs / f"hessian_free_{seed}", make, like)

    tried = {rate: by_adam(rate, TUNING_SEED, TUNING_STEPS, LEVELS[0])[0] for rate in RATES}
    rate = RATES[best(list(tried.values()), LEVELS[0])]
    print(tuning_table(tried), flush=True)
    ours = [by_hessian_free(seed) for seed in SEEDS]
    theirs = [by_adam(rate, seed, ADAM_STEPS, LEVELS[-1]) for seed in SEEDS]
    made = {"Hessian-free": ours, f"Adam({rate:g})": theirs}
    curves = {name: [curve for curve, _ in of_method] for name, of_method in made.items()}
    models = {name: of_method[0][1] for name, of_method in made.items()}
    print(levels_table(curves), flush=True)
    figure.draw(curves, models, dataset, arguments.folder / "autoencoder.png")
    _write(arguments.folder, curves, tried, rate)


def _write(
    folder: Path, curves: dict[str, list[Curve]], tried: dict[float, Curve], rate: float
) -> None:
    about = machine.describe()
    text = TEMPLATE.read_text().format(
        python=about["python"],
        versions=versions(about),
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
        last_steps=", ".join(
            f"{name} after {seeds[0][-1].step} steps, at a training loss of {seeds[0][-1].loss:.1f}"
            for name, seeds in curves.items()
        ),
        hessian_free_steps=HESSIAN_FREE_STEPS,
        adam_steps=ADAM_STEPS,
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
