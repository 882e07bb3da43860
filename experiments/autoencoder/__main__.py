"""`python -m experiments.autoencoder`: `autoencoder.json, .md, .png`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import data
from experiments.comparison.curves import Curve, rounded
from experiments.comparison.method import WARM_UP, Setting, label
from experiments.comparison.page import parser
from experiments.comparison.runs import SEEDS, TUNING_SEED, Runs
from experiments.comparison.tables import levels_table, tuning_table
from experiments.comparison.tuning import SHORTER, SLACK, Tried
from training import machine

from . import deep, figure
from .methods import METHODS
from .problem import BATCH_SIZE, LEVELS, small
from .report import OURS, soonest_table, steps_of_hessian_free, verdict

TEMPLATE = Path(__file__).with_name("template.md")
RECONSTRUCTED = ("K-FAC", "Adam")


def main() -> None:
    """Tune, run, draw and write; runs that are already on disk are not repeated."""
    options = parser("autoencoder", __doc__)
    options.add_argument(
        "--deep", action="store_true", help="the deeper network instead: `autoencoder_deep.*`"
    )
    arguments = options.parse_args()
    dataset = data.mnist10k()
    if arguments.deep:
        deep.compare(dataset, arguments.folder, arguments.runs)
        return
    runs = Runs(small(dataset), arguments.runs)
    tuned = {name: runs.soonest(name, METHODS[name], LEVELS) for name in METHODS}
    curves, models = {name: [] for name in METHODS}, {}
    # All methods of a seed in a row: the load on the machine changes with time, and must affect all
    # methods alike.
    for seed in SEEDS:
        for name, (setting, _) in tuned.items():
            curve, model = runs.made(name, METHODS[name], setting, seed, until=LEVELS[-1])
            curves[name].append(curve)
            models.setdefault(name, model)
    print(levels_table(curves, LEVELS, OURS), flush=True)
    shown = {name: models[name] for name in RECONSTRUCTED}
    figure.draw(curves, shown, dataset, arguments.folder / "autoencoder.png")
    _write(arguments.folder, curves, tuned)


def _write(
    folder: Path,
    curves: Mapping[str, Sequence[Curve]],
    tuned: Mapping[str, tuple[Setting, Sequence[Tried]]],
) -> None:
    about = machine.describe()
    text = TEMPLATE.read_text(encoding="utf-8").format(
        python=about["python"],
        versions=machine.versions_in_one_line(about),
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
        table=levels_table(curves, LEVELS, OURS),
        verdict=verdict(curves),
        soonest=soonest_table({name: tried for name, (_, tried) in tuned.items() if tried}),
        hessian_free=steps_of_hessian_free(curves),
        first_seed=SEEDS[0],
        last_steps=", ".join(
            f"{name} after {curves[name][0][-1].step} steps, at {curves[name][0][-1].loss:.1f}"
            for name in RECONSTRUCTED
        ),
        tuning="\n\n".join(
            f"### {name}\n\n{tuning_table(tried, LEVELS)}"
            for name, (_, tried) in tuned.items()
            if len(tried) > 1
        ),
    )
    (folder / "autoencoder.md").write_text(text, encoding="utf-8")
    results = {
        "machine": about,
        "seeds": SEEDS,
        "columns": ["step", "seconds", "processor_seconds", "loss"],
        "curves": {name: [rounded(curve) for curve in seeds] for name, seeds in curves.items()},
        "settings": {name: setting for name, (setting, _) in tuned.items()},
        "tuning": {
            name: {label(setting): rounded(curve) for setting, curve in tried}
            for name, (_, tried) in tuned.items()
        },
    }
    (folder / "autoencoder.json").write_text(json.dumps(results) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
