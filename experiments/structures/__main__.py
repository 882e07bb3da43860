"""`python -m experiments.structures`: `structures.json, .md, .png`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from experiments.comparison.curves import rounded
from experiments.comparison.finals import Finals, Found, compare
from experiments.comparison.method import WARM_UP, label
from experiments.comparison.runs import SEEDS, TUNING_SEED
from experiments.comparison.tables import tuning_table
from experiments.markdown import versions
from training import machine

from . import figure
from .methods import LONGER, ours, rival
from .problems import problems, steps

TEMPLATE = Path(__file__).with_name("template.md")


def main() -> None:
    """Tune, run, draw and write; runs that are kept are not made again."""
    parser = argparse.ArgumentParser(prog="python -m experiments.structures", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs/results"), help="where to write")
    parser.add_argument(
        "--runs", type=Path, default=Path("outputs/structures"), help="where runs are kept"
    )
    arguments = parser.parse_args()
    found = []
    for problem in problems():
        of_adam = steps(problem)
        finals = compare(problem, {"Adam": rival(of_adam)}, ours(of_adam), arguments.runs)
        print(f"{problem.name}\n{finals.table()}", flush=True)
        found.append(finals)
    figure.draw(found, arguments.folder / "structures.png")
    _write(arguments.folder, found)


def _write(folder: Path, found: Sequence[Finals]) -> None:
    about = machine.describe()
    text = TEMPLATE.read_text().format(
        python=about["python"],
        versions=versions(about),
        processor=about["processor"],
        cores=about["cores"],
        tuning_seed=TUNING_SEED,
        seeds=", ".join(map(str, SEEDS)),
        warm_up=WARM_UP,
        longer=LONGER,
        tables="\n\n".join(
            f"## {finals.problem.name}, {steps(finals.problem)} steps of Adam\n\n{finals.table()}"
            for finals in found
        ),
        tuning="\n\n".join(
            f"### {finals.problem.name}: {name}\n\n{tuning_table(one.tried, finals.levels)}"
            for finals in found
            for name, one in finals.all().items()
        ),
    )
    (folder / "structures.md").write_text(text)
    results = {
        "machine": about,
        "seeds": SEEDS,
        "columns": ["step", "seconds", "processor_seconds", "loss"],
        "problems": {
            finals.problem.name: {name: _plain(one) for name, one in finals.all().items()}
            for finals in found
        },
    }
    (folder / "structures.json").write_text(json.dumps(results) + "\n")


def _plain(found: Found) -> dict:
    return {
        "setting": label(found.setting),
        "curves": [rounded(curve) for curve in found.curves],
        "tried": {label(setting): rounded(curve) for setting, curve in found.tried},
    }


if __name__ == "__main__":
    main()
