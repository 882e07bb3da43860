"""The rivals and the structures, and what is tried of each."""

import functools
from collections.abc import Callable

import optax

import curvature as cv
from experiments.comparison.method import Method, Setting, rate
from training import rivals

OBJECTIVE = cv.Supervised(cv.Categorical())
STEPS = 1000
EVERY = 25


def adamw(learning_rate: float) -> cv.FirstOrder:
    """AdamW; as all rivals, with a rate that grows and then falls to zero at the last step."""
    return cv.FirstOrder(OBJECTIVE, optax.adamw(rate(learning_rate, STEPS)))


def muon(learning_rate: float) -> cv.FirstOrder:
    """Muon, with Adam at the same rate for what is no matrix."""
    return cv.FirstOrder(
        OBJECTIVE,
        optax.contrib.muon(
            rate(learning_rate, STEPS), muon_weight_dimension_numbers=rivals.matrix_axes
        ),
    )


def soap(learning_rate: float) -> cv.FirstOrder:
    """SOAP."""
    return cv.FirstOrder(OBJECTIVE, rivals.soap(rate(learning_rate, STEPS)))


def natural_gradient(
    structure: Callable[[cv.AbstractPullback], cv.AbstractCurvature],
    delta: float,
    damping: float = 0.1,
    samples: int = 1,
) -> cv.NaturalGradient:
    """A structure of the Fisher matrix of drawn targets; a step has a KL divergence that falls.

    **Arguments:** `delta`, the divergence of the first step, in nats and per window; that of the
    last is a hundredth. `samples`, drawn targets per window.
    """
    return cv.NaturalGradient(
        OBJECTIVE,
        structure(cv.SampledFisher(samples)),
        damping=damping,
        search=cv.KLTrustRegion(optax.linear_schedule(delta, delta / 100, STEPS)),
    )


def _method(make: Callable[..., cv.AbstractOptimiser], grid: list[Setting]) -> Method:
    return Method(make, grid, [], every=EVERY, steps=STEPS, scheduled=False)


def _rates(*rates: float) -> list[Setting]:
    return [{"learning_rate": peak} for peak in rates]


RIVALS = {
    "AdamW": _method(adamw, _rates(1e-3, 3e-3, 1e-2)),
    "Muon": _method(muon, _rates(3e-3, 1e-2, 3e-2)),
    "SOAP": _method(soap, _rates(1e-3, 3e-3, 1e-2)),
}
# One drawn target for each of 12 windows is too little for blocks that are not averaged.
_MANY = functools.partial(natural_gradient, samples=16)
OURS = {
    "K-FAC": functools.partial(natural_gradient, cv.KFAC),
    "EKFAC": functools.partial(natural_gradient, cv.EKFAC),
    "layer by layer": functools.partial(_MANY, cv.BlockDiagonal),
}


def ours() -> dict[str, Method]:
    """Every structure."""
    grid: list[Setting] = [{"delta": delta} for delta in (1.0, 0.3, 3.0)]
    choices: list[Setting] = [{"damping": 1.0}, {"damping": 0.01}]
    return {name: _method(make, grid)._replace(choices=choices) for name, make in OURS.items()}
