"""Nets of several layers, 64-64-48-48, with fresh points at every step.

`python -m experiments.physics.layers` prints a table. On one core a step takes some 2 s for the
heat equation, and 11 s for poisson5d.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.harness.levels import reached
from experiments.harness.markdown import table
from experiments.harness.method import Method
from experiments.harness.page import parser
from experiments.harness.problem import Problem
from experiments.harness.runs import SEEDS, Runs

from .errors import error_curve
from .methods import FRESH_STEPS, preset

NET = ("model.width=[64,64,48,48]", "model.depth=4", "dataset.resample_every=1")
LEVELS = (1e-4, 1e-5, 1e-6)


def as_poisson5d() -> list[str]:
    """The damping and the bent steps of the preset `poisson5d`, for the heat equation."""
    of_poisson = preset("poisson5d")
    damping = [f"damping.{name}={value}" for name, value in of_poisson["damping"].items()]
    return [*damping, f"optimiser.acceleration={of_poisson['optimiser']['acceleration']}"]


METHODS = {
    "heat": Method("fresh points", as_poisson5d, [{}], FRESH_STEPS, 5),
    "poisson5d": Method("fresh points", list, [{}], 172, 4),
}


def row(seed: int, run: Path) -> Sequence[str]:
    """The steps to each level, the lowest error, and the error at the end."""
    curve = error_curve(run)
    points = [reached(curve, level) for level in LEVELS]
    lowest = min(point.value for point in curve)
    steps = ["–" if point is None else str(point.step) for point in points]
    return [str(seed), *steps, f"{lowest:.1e}", f"{curve[-1].value:.1e}"]


def main() -> None:
    """Run what is missing, and print the tables."""
    options = parser("physics.layers", __doc__, runs="physics", writes=False)
    folder = options.parse_args().runs
    for experiment, method in METHODS.items():
        problem = Problem(f"{experiment} of layers", (f"experiment={experiment}", *NET), "test")
        runs = Runs(problem, folder)
        rows = [row(seed, runs.run(method, {}, seed)) for seed in SEEDS]
        header = ["seed", *(f"steps to {level:g}" for level in LEVELS), "lowest", "at the end"]
        print(f"{experiment}, {method.steps} steps\n\n{table(header, rows)}\n", flush=True)


if __name__ == "__main__":
    main()
