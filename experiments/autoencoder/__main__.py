"""`python -m experiments.autoencoder` writes `autoencoder.json, .md, .png`."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.harness.command import read_model
from experiments.harness.curves import Curve, read_curve, round_curve
from experiments.harness.method import Setting, label
from experiments.harness.page import parser, write
from experiments.harness.runs import SEEDS, Runs
from experiments.harness.tables import levels_table, tuning_table
from experiments.harness.tuning import SHORTER, Tried, soonest

from . import figure
from .methods import METHODS
from .problem import LEVELS, SMALL
from .report import OURS, soonest_table, steps_of_hessian_free, verdict

RECONSTRUCTED = ("K-FAC", "Adam")


def main() -> None:
    """Tune, run, draw and write; runs that are already on disk are not repeated."""
    arguments = parser("autoencoder", __doc__, runs="autoencoder").parse_args()
    runs = Runs(SMALL, arguments.runs)
    tuned = {
        method.name: soonest(method, functools.partial(runs.tried, method), LEVELS)
        for method in METHODS
    }
    folders = runs.run_in_turns([(method, tuned[method.name][0]) for method in METHODS])
    curves = {
        name: [read_curve(folder, SMALL.part) for folder in made] for name, made in folders.items()
    }
    print(levels_table(curves, LEVELS, OURS), flush=True)
    models = {name: read_model(folders[name][0]) for name in RECONSTRUCTED}
    figure.draw(curves, models, arguments.folder / "autoencoder.png")
    publish(arguments.folder, curves, tuned)


def publish(
    folder: Path,
    curves: Mapping[str, Sequence[Curve]],
    tuned: Mapping[str, tuple[Setting, Sequence[Tried]]],
) -> None:
    """Write `autoencoder.md` and `.json`."""
    results = {
        "seeds": SEEDS,
        "columns": ["step", "seconds", "processor_seconds", "loss"],
        "curves": {name: [round_curve(curve) for curve in seeds] for name, seeds in curves.items()},
        "settings": {name: setting for name, (setting, _) in tuned.items()},
        "tuning": {
            name: {label(each.setting): [*map(round_curve, each.curves)] for each in tried}
            for name, (_, tried) in tuned.items()
        },
    }
    write(
        "autoencoder",
        folder,
        results,
        tuned_level=LEVELS[-1],
        shorter=SHORTER,
        every=", ".join(f"{method.every} of {method.name}" for method in METHODS),
        most=", ".join(f"{method.steps:,} of {method.name}" for method in METHODS),
        settings="\n".join(f"- {name}: {label(setting)}" for name, (setting, _) in tuned.items()),
        table=levels_table(curves, LEVELS, OURS),
        verdict=verdict(curves),
        soonest=soonest_table({name: tried for name, (_, tried) in tuned.items() if tried}),
        hessian_free=steps_of_hessian_free(curves),
        first_seed=SEEDS[0],
        last_steps=", ".join(
            f"{name} after {curves[name][0][-1].step} steps, at {curves[name][0][-1].value:.1f}"
            for name in RECONSTRUCTED
        ),
        tuning="\n\n".join(
            f"### {name}\n\n{tuning_table(tried, LEVELS)}"
            for name, (_, tried) in tuned.items()
            if tried
        ),
    )


if __name__ == "__main__":
    main()
