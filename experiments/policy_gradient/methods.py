"""The methods that are compared, each with the grid on which it is tuned."""

from collections.abc import Callable
from typing import NamedTuple

import optax
from jaxtyping import Scalar

import curvature as cv

OBJECTIVE = cv.Supervised(cv.PolicyGradient(cv.Categorical()))


class Method(NamedTuple):
    """A method and its settings.

    - `make`: `make(*setting)` is the optimiser.
    - `settings`: the settings to try; `names`: the names of the numbers in a setting.
    - `updates`: the number of updates of a run.
    """

    name: str
    names: tuple[str, ...]
    settings: tuple[tuple[float, ...], ...]
    make: Callable[..., cv.AbstractOptimiser]
    updates: int


def natural(delta: Scalar, damping: Scalar) -> cv.NaturalGradient:
    """Natural policy gradient in a KL trust region; the solver and the search are those of TRPO."""
    return cv.NaturalGradient(
        OBJECTIVE,
        cv.ExactFisher(),
        cv.CG(rtol=1e-5, max_steps=10),
        damping=damping,
        search=cv.KLTrustRegion(delta),
        max_search_steps=10,
    )


def adam(learning_rate: Scalar) -> cv.FirstOrder:
    """Plain policy gradient by Adam."""
    return cv.FirstOrder(OBJECTIVE, optax.adam(learning_rate))


def sgd(learning_rate: Scalar) -> cv.FirstOrder:
    """Plain policy gradient by gradient descent."""
    return cv.FirstOrder(OBJECTIVE, optax.sgd(learning_rate))


_TRUST_REGION = ("δ", "λ")
METHODS = (
    Method("natural, constants of TRPO", _TRUST_REGION, ((0.01, 0.1),), natural, 40),
    Method(
        "natural, tuned",
        _TRUST_REGION,
        ((0.01, 0.1), (0.03, 0.1), (0.01, 0.01), (0.03, 0.01)),
        natural,
        40,
    ),
    Method("plain, Adam", ("rate",), ((0.003,), (0.01,), (0.03,), (0.06,), (0.1,)), adam, 40),
    Method("plain, SGD", ("rate",), ((0.1,), (0.3,), (1.0,), (2.0,), (3.0,), (5.0,)), sgd, 80),
)
