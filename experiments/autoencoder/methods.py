"""The optimisers that are compared, and the settings of each to try on the tuning seed."""

import functools
from collections.abc import Callable
from typing import Literal

import optimistix as optx

import curvature as cv
from experiments.comparison import rivals
from experiments.comparison.method import Method, Setting
from experiments.comparison.ours import martens_grosse

from .problem import OBJECTIVE


def hessian_free() -> cv.NaturalGradient:
    """Gauss–Newton with truncated CG, as in `conf/experiment/autoencoder.yaml`."""
    return cv.NaturalGradient(
        OBJECTIVE,
        cv.GaussNewton(),
        cv.CG(rtol=1e-3, max_steps=50, progress=5e-4),
        damping=cv.LevenbergMarquardt(initial=1.0),
        search=optx.BacktrackingArmijo(decrease_factor=0.5, slope=0.1, step_init=1.0),
        momentum=cv.WarmStart(0.95),
    )


def kfac(
    damping: float = 0.01,
    minimum: float = 1e-3,
    decay: float = 0.9,
    every: int = 10,
    examples: int | None = None,
    inverse: Literal["exact", "factored"] = "exact",
) -> cv.NaturalGradient:
    """K-FAC with its own learning rate and momentum, as in `conf/experiment/autoencoder_kfac.yaml`.

    **Arguments:** `damping` and `minimum`, the first and the least λ; `decay` and `every`, for the
    factors; `examples`, the number of examples of the batch from which the factors are computed,
    None for all; `inverse`, how the factors are damped.
    """
    structure = cv.KFAC(cv.SampledFisher(1), decay=decay, every=every, damping=inverse)
    return _preconditioned(structure, damping, minimum, examples)


def ekfac(
    damping: float = 0.01,
    minimum: float = 1e-3,
    decay: float = 0.9,
    every: int = 10,
    examples: int | None = None,
) -> cv.NaturalGradient:
    """As `kfac`, with corrected eigenvalues."""
    structure = cv.EKFAC(cv.SampledFisher(1), decay=decay, every=every)
    return _preconditioned(structure, damping, minimum, examples)


def _preconditioned(
    structure: cv.AbstractCurvature, damping: float, minimum: float, examples: int | None
) -> cv.NaturalGradient:
    if examples is not None:
        structure = cv.FirstExamples(structure, examples)
    return martens_grosse(OBJECTIVE, structure, damping, minimum)


def _grid(name: str, *values: float) -> list[Setting]:
    return [{name: value} for value in values]


def _rival(
    make: Callable[..., cv.AbstractOptimiser],
    rates: tuple[float, ...],
    choices: list[Setting],
    every: int,
) -> Method:
    grid = _grid("learning_rate", *rates)
    make = functools.partial(make, OBJECTIVE)
    return Method(make, grid, choices, every, steps=3000, scheduled=True)


def _ours(make: Callable[..., cv.AbstractOptimiser], choices: list[Setting]) -> Method:
    grid = _grid("damping", 0.03, 0.1, 0.01, 0.3, 0.003, 0.001)
    return Method(make, grid, choices, every=2, steps=400, scheduled=False)


_CHEAPER = [{"examples": 500}, {"examples": 250}, {"every": 20}]
_STEADIER = [{"decay": 0.8}, {"decay": 0.95}, {"minimum": 3e-4}]
# Each grid begins with the rate that is most likely the best, since a run that is slower than the
# best one so far ends early.
_LESS_OFTEN = [{"precondition_frequency": 20}, {"max_dim": 512}]
METHODS = {
    "K-FAC": _ours(kfac, [*_CHEAPER, {"inverse": "factored"}, *_STEADIER]),
    "EKFAC": _ours(ekfac, _CHEAPER),
    "Adam": _rival(rivals.adam, (3e-3, 5e-3, 2e-3, 1e-3, 1e-2), [], every=20),
    "Muon": _rival(rivals.muon, (1e-2, 2e-2, 5e-3, 5e-2, 2e-3), [], every=10),
    "SOAP": _rival(rivals.soap, (1e-2, 2e-2, 5e-2, 3e-3, 1e-1), _LESS_OFTEN, every=10),
    "Shampoo": _rival(rivals.shampoo, (1e-2, 2e-2, 5e-3, 5e-2, 2e-3), _LESS_OFTEN, every=10),
    "Hessian-free": Method(hessian_free, [{}], [], every=1, steps=60, scheduled=False),
}
