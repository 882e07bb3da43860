"""The methods that are compared, each with the grid on which it is tuned."""

from collections.abc import Callable
from typing import NamedTuple

import optax
import optimistix as optx
from jaxtyping import Scalar

import curvature as cv

from .runs import OBJECTIVE, Task

SMALL = Task(batch_size=128, epochs=2, every=4)
LARGE = Task(batch_size=2000, epochs=10, every=1)

Make = Callable[..., cv.AbstractOptimiser]


class Method(NamedTuple):
    """`make(*setting)` is the optimiser; `names` are the names of the numbers in a setting."""

    name: str
    names: tuple[str, ...]
    settings: tuple[tuple[float, ...], ...]
    make: Make


def adam(learning_rate: Scalar) -> cv.FirstOrder:
    """Adam; its other constants have optax's defaults."""
    return cv.FirstOrder(OBJECTIVE, optax.adam(learning_rate))


def sgd(learning_rate: Scalar) -> cv.FirstOrder:
    """Gradient descent without momentum."""
    return cv.FirstOrder(OBJECTIVE, optax.sgd(learning_rate))


def in_sample_space(curvature: cv.AbstractCurvature) -> Make:
    """Exact solves, with SPRING's momentum."""

    def make(damping: Scalar, decay: Scalar) -> cv.NaturalGradient:
        return cv.NaturalGradient(
            OBJECTIVE, curvature, cv.SampleSpace(), damping=damping, momentum=cv.Spring(decay)
        )

    return make


def truncated(curvature: cv.AbstractCurvature) -> Make:
    """Solves with ten conjugate-gradient steps, and a line search on the batch."""

    def make(damping: Scalar) -> cv.NaturalGradient:
        return cv.NaturalGradient(
            OBJECTIVE,
            curvature,
            cv.CG(rtol=1e-3, max_steps=10),
            damping=damping,
            search=optx.BacktrackingArmijo(),
        )

    return make


def by_default(curvature: cv.AbstractCurvature) -> Make:
    """The defaults of `python train.py curvature=...`: `conf/damping`, `conf/search` and so on."""

    def make() -> cv.NaturalGradient:
        search = optx.BacktrackingArmijo(decrease_factor=0.5, slope=0.1, step_init=1.0)
        return cv.NaturalGradient(OBJECTIVE, curvature, cv.Auto(), damping=1.0, search=search)

    return make


def averaged(make: Make) -> Make:
    """The method, evaluated at an average of the weights over about the last ten steps."""

    def make_averaged(*setting: Scalar) -> cv.Averaged:
        return cv.Averaged(make(*setting), decay=0.9)

    return make_averaged


EXACT, EMPIRICAL = cv.ExactFisher(), cv.EmpiricalFisher()
ONE, FIVE = cv.SampledFisher(samples=1), cv.SampledFisher(samples=5)

_RATES = tuple((rate,) for rate in (1e-3, 3e-3, 5e-3, 1e-2, 1.5e-2, 2e-2, 3e-2, 5e-2))
_SGD_RATES = tuple((rate,) for rate in (0.1, 0.3, 0.5, 1.0, 2.0))
_SPRING = ("λ", "μ")
_SETTINGS = ((1.0, 0.8), (1.5, 0.8), (2.0, 0.9))

IN_SMALL = (
    Method("adam", ("rate",), _RATES, adam),
    Method("sgd", ("rate",), _SGD_RATES, sgd),
    Method("empirical_fisher", _SPRING, _SETTINGS, averaged(in_sample_space(EMPIRICAL))),
    Method("true_fisher 1", _SPRING, _SETTINGS, averaged(in_sample_space(ONE))),
    Method("true_fisher 5", _SPRING, _SETTINGS, averaged(in_sample_space(FIVE))),
    Method("exact_fisher", _SPRING, _SETTINGS, averaged(in_sample_space(EXACT))),
    Method("adam, averaged", ("rate",), _RATES, averaged(adam)),
    Method("sgd, averaged", ("rate",), _SGD_RATES, averaged(sgd)),
)
IN_LARGE = (
    Method("adam", ("rate",), _RATES, adam),
    Method("sgd", ("rate",), _SGD_RATES, sgd),
    Method("exact_fisher", ("λ",), ((0.003,), (0.01,)), truncated(EXACT)),
)
# Gauss–Newton and the KL divergence are left out: for this likelihood, both curvatures equal the
# exact Fisher.
DEFAULTS = tuple(
    Method(name, (), ((),), by_default(curvature))
    for name, curvature in {
        "identity": cv.Identity(),
        "empirical_fisher": EMPIRICAL,
        "true_fisher 1": ONE,
        "true_fisher 5": FIVE,
        "exact_fisher": EXACT,
        "divergence_hellinger": cv.Divergence(cv.SquaredHellinger()),
        "divergence_euclidean": cv.Divergence(cv.SquaredEuclidean()),
    }.items()
)
