"""The methods that are compared, each with the grid on which it is tuned."""

from collections.abc import Callable, Sequence

from experiments.harness.method import Method, Setting, settings
from experiments.harness.optimisers import first_order
from experiments.harness.problem import Problem

from .curvatures import CURVATURES

SMALL = Problem("batch 128", ("experiment=tutorial_mnist",))
LARGE = Problem("batch 2000", ("experiment=tutorial_mnist", "batch_size=2000"))
SMALL_STEPS, SMALL_EVERY = 124, 4
"""2 epochs of the 8,000 images, in batches of 128."""
LARGE_STEPS, LARGE_EVERY = 40, 1
"""10 epochs in batches of 2000."""
BATCH_SIZE = 128

FISHERS = {name: fisher.overrides for name, fisher in CURVATURES.items()}
Overrides = Callable[..., Sequence[str]]


def in_sample_space(*curvature: str) -> Overrides:
    """Exact solves with SPRING's momentum, and the full step."""

    def overrides(damping: float, decay: float) -> list[str]:
        return [
            *curvature,
            *("solver=sample_space", "search=learning_rate", "momentum=spring"),
            f"damping.value={damping}",
            f"momentum.decay={decay}",
        ]

    return overrides


def truncated(damping: float) -> list[str]:
    """The exact Fisher by ten conjugate-gradient steps, and a line search on the batch."""
    solver = ["solver=cg", "solver.rtol=1e-3", "solver.max_steps=10"]
    return ["curvature=exact_fisher", *solver, f"damping.value={damping}"]


def averaged(overrides: Overrides) -> Overrides:
    """The method, evaluated at an average of the weights over about the last ten steps."""

    def of_average(**setting: float) -> list[str]:
        return [*overrides(**setting), "average=exponential", "average.decay=0.9"]

    return of_average


def small(name: str, overrides: Overrides, grid: Sequence[Setting]) -> Method:
    """A method in small batches."""
    return Method(name, overrides, grid, SMALL_STEPS, SMALL_EVERY)


def large(name: str, overrides: Overrides, grid: Sequence[Setting]) -> Method:
    """A method in large batches."""
    return Method(name, overrides, grid, LARGE_STEPS, LARGE_EVERY)


OTHERS = {
    name: (f"curvature={name}",)
    for name in ("identity", "divergence_hellinger", "divergence_euclidean")
}
RATES = settings("learning_rate", 1e-3, 3e-3, 5e-3, 1e-2, 1.5e-2, 2e-2, 3e-2, 5e-2)
SGD_RATES = settings("learning_rate", 0.1, 0.3, 0.5, 1.0, 2.0)
SPRING: list[Setting] = [
    {"damping": damping, "decay": decay} for damping, decay in ((1.0, 0.8), (1.5, 0.8), (2.0, 0.9))
]

IN_SMALL = (
    small("adam", first_order("adam"), RATES),
    small("sgd", first_order("sgd"), SGD_RATES),
    *(small(name, averaged(in_sample_space(*of)), SPRING) for name, of in FISHERS.items()),
    small("adam, averaged", averaged(first_order("adam")), RATES),
    small("sgd, averaged", averaged(first_order("sgd")), SGD_RATES),
)
IN_LARGE = (
    large("adam", first_order("adam"), RATES),
    large("sgd", first_order("sgd"), SGD_RATES),
    large("exact_fisher", truncated, settings("damping", 0.003, 0.01)),
)
DEFAULTS = tuple(small(name, lambda of=of: of, [{}]) for name, of in (FISHERS | OTHERS).items())
"""Gauss–Newton and the curvature of the KL divergence are left out: for this likelihood, both equal
the exact Fisher."""
WRONG = small(
    "ḡ/‖ḡ‖²",
    lambda: [
        "optimiser=adam",
        "optimiser.transformation._target_=experiments.tutorial_mnist.rank_one.descent",
        "~optimiser.transformation.learning_rate",
    ],
    [{}],
)
"""The control: steps by the inverse of ḡḡᵀ, see `rank_one`."""
