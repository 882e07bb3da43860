"""`python -m experiments.kunstner [--folder FOLDER]` writes `kunstner.json`, `.md` and `.png`."""

import argparse
import json
from pathlib import Path

import jax

from experiments.markdown import results_folder
from training import machine

from . import figure, problems
from .newton import Iterate, iterates
from .report import near_the_optimum, newton_table, scaling_table
from .scaling import Scaling, scalings

TEMPLATE = Path(__file__).with_name("template.md")


def main() -> None:
    """Measure, draw and write."""
    parser = argparse.ArgumentParser(prog="python -m experiments.kunstner", description=__doc__)
    parser.add_argument(
        "--folder", type=results_folder, default="docs/results", help="where to write"
    )
    folder = parser.parse_args().folder
    jax.config.update("jax_enable_x64", True)
    both = problems.wine(), problems.breast_cancer()
    newton = {problem.name: iterates(problem) for problem in both}
    scaling = {problem.name: scalings(problem) for problem in both}
    figure.draw(problems.line(), folder / "kunstner.png")
    _write(folder, newton, scaling)


def _write(
    folder: Path, newton: dict[str, list[Iterate]], scaling: dict[str, list[Scaling]]
) -> None:
    about = machine.describe()
    tables = [
        f"### {name}\n\n{scaling_table(found)}\n\n{near_the_optimum(found)}"
        for name, found in scaling.items()
    ]
    text = TEMPLATE.read_text(encoding="utf-8").format(
        python=about["python"],
        versions=machine.versions_in_one_line(about),
        newton=newton_table(newton),
        scaling="\n\n".join(tables),
    )
    (folder / "kunstner.md").write_text(text, encoding="utf-8")
    results = {
        "machine": about,
        "newton": {name: [it._asdict() for it in found] for name, found in newton.items()},
        "scaling": {name: [s._asdict() for s in found] for name, found in scaling.items()},
    }
    (folder / "kunstner.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
