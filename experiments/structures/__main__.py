"""`python -m experiments.structures [PROBLEM ...]`: `structures.json, .md, .png`."""

from pathlib import Path

from experiments.comparison.finals import compare
from experiments.comparison.page import parser, publish

from .methods import MOST_ROWS, ours, rival
from .problems import ABOUT, EPOCHS, problems, steps


def main() -> None:
    """Tune, run, draw and write; runs that are already on disk are not repeated."""
    options = parser("structures", __doc__)
    options.add_argument(
        "problems", nargs="*", default=list(EPOCHS), metavar="PROBLEM", help=f"of {[*EPOCHS]}"
    )
    arguments = options.parse_args()
    if unknown := set(arguments.problems) - set(EPOCHS):
        options.error(f"there are the problems {[*EPOCHS]}, got {sorted(unknown)}")
    found = []
    chosen = [problem for problem in problems() if problem.name in arguments.problems]
    for problem in chosen:
        of_adam = steps(problem)
        by_ours = ours(of_adam, problem.batch_size)
        finals = compare(problem, {"Adam": rival(of_adam)}, by_ours, arguments.runs)
        print(f"{problem.name}\n{finals.table()}", flush=True)
        found.append(finals)
    publish(
        found,
        Path(__file__).with_name("template.md"),
        arguments.folder,
        arguments="".join(f' "{problem.name}"' for problem in chosen if len(chosen) < len(EPOCHS)),
        about="\n".join(
            f"- {problem.name}: {ABOUT[problem.name]}; {EPOCHS[problem.name]} epochs of Adam"
            for problem in chosen
        ),
        most_rows=f"{MOST_ROWS:,}",
    )


if __name__ == "__main__":
    main()
