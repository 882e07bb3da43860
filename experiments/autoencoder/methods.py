"""The two optimisers that are compared."""

import optax
import optimistix as optx

import curvature as cv

OBJECTIVE = cv.Autoencoding(cv.Bernoulli())
RATES = (1e-3, 2e-3, 3e-3, 5e-3, 1e-2)


def hessian_free() -> cv.NaturalGradient:
    """Gauss–Newton by truncated CG, that of `conf/experiment/autoencoder.yaml`."""
    return cv.NaturalGradient(
        OBJECTIVE,
        cv.GaussNewton(),
        cv.CG(rtol=1e-3, max_steps=50, progress=5e-4),
        damping=cv.LevenbergMarquardt(initial=1.0),
        search=optx.BacktrackingArmijo(decrease_factor=0.5, slope=0.1, step_init=1.0),
        momentum=cv.WarmStart(0.95),
    )


def adam(learning_rate: float) -> cv.FirstOrder:
    """Adam, to be tuned over `RATES`."""
    return cv.FirstOrder(OBJECTIVE, optax.adam(learning_rate))
