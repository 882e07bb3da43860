"""The rivals and the structures, and the settings of each to try."""

import functools
from collections.abc import Callable

import curvature as cv
from experiments.comparison import rivals
from experiments.comparison.method import Method, Setting
from experiments.comparison.ours import of_divergence

OBJECTIVE = cv.Supervised(cv.Categorical())
STEPS = 1000
EVERY = 25


def _method(make: Callable[..., cv.AbstractOptimiser], grid: list[Setting]) -> Method:
    return Method(make, grid, [], every=EVERY, steps=STEPS, scheduled=False)


def _rival(make: Callable[..., cv.AbstractOptimiser], *rates: float) -> Method:
    """A rival with a learning rate that first grows, and then falls to zero at the last step."""
    grid: list[Setting] = [{"learning_rate": peak} for peak in rates]
    return _method(functools.partial(make, OBJECTIVE, until=STEPS), grid)


RIVALS = {
    "AdamW": _rival(rivals.adamw, 1e-3, 3e-3, 1e-2),
    "Muon": _rival(rivals.muon, 3e-3, 1e-2, 3e-2),
    "SOAP": _rival(rivals.soap, 1e-3, 3e-3, 1e-2),
}
OURS = {
    "K-FAC": (cv.KFAC, (0.1, 0.03, 0.3)),
    "EKFAC": (cv.EKFAC, (0.1,)),  # as for K-FAC: a divergence has the same meaning for both
}


def ours() -> dict[str, Method]:
    """The structures."""
    return {
        name: _method(
            functools.partial(of_divergence, OBJECTIVE, structure, STEPS),
            [{"delta": delta} for delta in deltas],
        )
        for name, (structure, deltas) in OURS.items()
    }
