"""Schedules of λ, of the step size and of the bound of the trust region."""

import equinox as eqx
import jax
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature import cases
from tests.curvature.written import poisoned, steps, trajectory

pytestmark = pytest.mark.usefixtures("standard_promotion", "as_installed")

STEPS, BAD = 5, 2
KEYS = jax.random.split(jax.random.key(0), STEPS)
DAMPING = optax.exponential_decay(1e-1, 2, 0.5)
STEP_SIZE = optax.linear_schedule(0.5, 0.1, 4)
DELTA = optax.cosine_decay_schedule(1e-3, 8)


def test_damping_and_step_size_follow_their_schedules(x64):
    """The schedules count a batch that is not finite as a step.

    For least squares C is constant, and −δ = s(C + λI)⁻¹g. Optax computes the schedules in single
    precision, hence the tolerances.
    """
    model = eqx.nn.Linear(3, 3, use_bias=False, key=jax.random.key(0))
    case = cases.supervised(model, "gaussian")
    optimiser = cv.NaturalGradient(
        case.objective,
        solver=lx.Cholesky(),
        damping=cv.ScheduledDamping(DAMPING),
        search=cv.ScheduledLearningRate(STEP_SIZE),
    )
    ws, infos = trajectory(case, optimiser, KEYS, poisoned(case, STEPS, BAD))
    x, y = map(np.asarray, case.batch)
    C = x.T @ x / len(x) / cases.VARIANCE
    for k, w, new, info in steps(ws.reshape(-1, 3, 3), infos):
        np.testing.assert_allclose(info.damping, DAMPING(k), rtol=1e-6)
        assert info.accepted == (k != BAD)
        if info.accepted:
            g = (x @ w.T - y).T @ x / len(x) / cases.VARIANCE
            d = np.linalg.solve(C + float(info.damping) * np.eye(3), g.T).T
            np.testing.assert_allclose(w - new, STEP_SIZE(k) * d, rtol=1e-6)


def test_the_trust_region_follows_its_schedule(x64):
    """½δᵀCδ is at the bound, since the gradient is far from zero.

    This schedule does not count batches that are not finite.
    """
    case = cases.supervised(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "categorical")
    optimiser = cv.NaturalGradient(
        case.objective,
        solver=lx.Cholesky(),
        damping=1e-2,
        search=cv.KLTrustRegion(delta=DELTA),
    )
    _, infos = trajectory(case, optimiser, KEYS, poisoned(case, STEPS, BAD))
    for k in range(STEPS):
        if k != BAD:
            bound = DELTA(k if k < BAD else k - 1)
            np.testing.assert_allclose(infos.metric_step[k], bound, rtol=1e-6)


def test_a_scheduled_learning_rate_does_not_evaluate_the_loss():
    assert isinstance(cv.ScheduledLearningRate(STEP_SIZE), optx.AbstractSearch)
    assert not cv.searches.evaluates(cv.ScheduledLearningRate(STEP_SIZE))
