"""`python -m experiments.structures`: `structures.json, .md, .png`."""

from pathlib import Path

from experiments.comparison.finals import compare
from experiments.comparison.page import parser, publish

from .methods import ours, rival
from .problems import EPOCHS, problems, steps


def main() -> None:
    """Tune, run, draw and write; runs that are kept are not made again."""
    arguments = parser("structures", __doc__).parse_args()
    found = []
    for problem in problems():
        of_adam = steps(problem)
        finals = compare(problem, {"Adam": rival(of_adam)}, ours(of_adam), arguments.runs)
        print(f"{problem.name}\n{finals.table()}", flush=True)
        found.append(finals)
    publish(
        found,
        Path(__file__).with_name("template.md"),
        arguments.folder,
        epochs=", ".join(f"{epochs} of {name}" for name, epochs in EPOCHS.items()),
    )


if __name__ == "__main__":
    main()
