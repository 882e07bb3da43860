"""Adam, and natural gradients by every structure; what is tried of each."""

import functools
from collections.abc import Callable

import optax

import curvature as cv
from experiments.comparison.method import Method, Setting, rate

OBJECTIVE = cv.Supervised(cv.Categorical())
LONGER = 3
"""A structure may take so many times the steps of Adam."""


def adam(learning_rate: float, until: int | None = None) -> cv.FirstOrder:
    """Adam."""
    return cv.FirstOrder(OBJECTIVE, optax.adam(rate(learning_rate, until)))


def natural_gradient(
    structure: Callable[[cv.AbstractPullback], cv.AbstractCurvature],
    damping: float,
    samples: int = 1,
) -> cv.NaturalGradient:
    """A structure of the Fisher matrix of drawn targets, with a constant λ and Armijo's search."""
    return cv.NaturalGradient(OBJECTIVE, structure(cv.SampledFisher(samples)), damping=damping)


def _full(of: cv.AbstractPullback) -> cv.AbstractPullback:
    return of


STRUCTURES = {
    "full": _full,
    "K-FAC": cv.KFAC,
    "K-FAC, factored damping": functools.partial(cv.KFAC, damping="factored"),
    "EKFAC": cv.EKFAC,
    "layer by layer": cv.BlockDiagonal,
    "diagonal": cv.Diagonal,
    "low rank": functools.partial(cv.LowRank, rank=20),
}
_DAMPINGS: list[Setting] = [{"damping": damping} for damping in (0.1, 0.03, 0.3, 0.01, 1.0)]


def rival(steps: int) -> Method:
    """Adam at a constant rate and at one that falls to zero at its last step."""
    rates = (1e-3, 3e-3, 1e-2, 3e-2)
    grid: list[Setting] = [{"learning_rate": peak} for peak in rates]
    grid += [{"learning_rate": peak, "until": steps} for peak in rates]
    return Method(adam, grid, [], every=_every(steps), steps=steps, scheduled=False)


def ours(steps: int) -> dict[str, Method]:
    """Every structure; `steps`, those of Adam."""
    return {
        name: Method(
            functools.partial(natural_gradient, structure),
            _DAMPINGS,
            [{"samples": 5}],
            every=_every(steps),
            steps=LONGER * steps,
            scheduled=False,
        )
        for name, structure in STRUCTURES.items()
    }


def _every(steps: int) -> int:
    """The whole training part is evaluated some fifty times in as many steps as Adam's."""
    return max(1, steps // 50)
