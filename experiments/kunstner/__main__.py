"""`python -m experiments.kunstner` writes `kunstner.json`, `.md` and `.png`."""

import jax

from experiments.harness.page import parser, write

from . import figure, problems
from .newton import iterates
from .report import near_the_optimum, newton_table, scaling_table
from .scaling import scalings


def main() -> None:
    """Measure, draw and write."""
    folder = parser("kunstner", __doc__).parse_args().folder
    jax.config.update("jax_enable_x64", True)
    both = problems.wine(), problems.breast_cancer()
    newton = {problem.name: iterates(problem) for problem in both}
    scaling = {problem.name: scalings(problem) for problem in both}
    figure.draw(problems.line(), folder / "kunstner.png")
    tables = [
        f"### {name}\n\n{scaling_table(found)}\n\n{near_the_optimum(found)}"
        for name, found in scaling.items()
    ]
    results = {
        "newton": {name: [it._asdict() for it in found] for name, found in newton.items()},
        "scaling": {name: [s._asdict() for s in found] for name, found in scaling.items()},
    }
    write(
        "kunstner",
        folder,
        results,
        newton=newton_table(newton),
        scaling="\n\n".join(tables),
    )


if __name__ == "__main__":
    main()
