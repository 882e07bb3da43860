"""The metric of a step is ½δᵀCδ with the matrix of the curvature, whatever the solver inverts."""

import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature.tools import flat, network

OBJECTIVE = cv.Supervised(cv.Categorical())


class Shifted(cv.AbstractCurvature):
    """Gauss–Newton plus a multiple of the identity."""

    shift: float

    def operator(self, linearisation, *, key=None):
        return cv.damped(cv.GaussNewton().operator(linearisation), self.shift)


def change_and_info(opt, model, batch):
    new, _, info = opt.step(model, batch, opt.init(model, batch=batch))
    assert info.accepted
    return np.asarray(flat(new) - flat(model)), info


@pytest.mark.parametrize("solver", [cv.CG(rtol=1e-12, max_steps=200), lx.Cholesky()])
@pytest.mark.parametrize("l2", [None, 0.2])
def test_a_multiple_of_the_identity_in_an_own_curvature_counts(x64, solver, l2):
    model, batch = network(jnp.float64)
    objective = cv.Supervised(cv.Categorical(), l2=l2)
    opt = cv.NaturalGradient(
        objective, Shifted(0.5), solver, damping=0.1, search=optx.LearningRate(1.0)
    )
    change, info = change_and_info(opt, model, batch)
    C = np.asarray(cv.GaussNewton().operator(objective.linearise(model, batch)).as_matrix())
    C = C + (0.5 + (l2 or 0.0)) * np.eye(len(C))
    np.testing.assert_allclose(info.metric_step, change @ C @ change / 2, rtol=1e-8)


@pytest.mark.parametrize("damping", [0.01, 1.0, 100.0])
def test_a_trust_region_and_factored_damping_have_the_same_matrix(x64, damping):
    model, batch = network(jnp.float64)
    structure = cv.KFAC(cv.GaussNewton(), damping="factored")
    opt = cv.NaturalGradient(
        OBJECTIVE,
        structure,
        damping=damping,
        search=cv.KLTrustRegion(0.01, model_minimum=False),
    )
    change, info = change_and_info(opt, model, batch)
    C = np.asarray(structure.operator(OBJECTIVE.linearise(model, batch)).as_matrix())
    np.testing.assert_allclose(info.metric_step, change @ C @ change / 2, rtol=1e-9)
    np.testing.assert_allclose(info.metric_step, 0.01, rtol=1e-6)


def test_a_residual_is_finite_for_a_damping_whose_square_overflows():
    model, batch = network(jnp.float32)
    structure, search = cv.KFAC(cv.GaussNewton()), optx.LearningRate(1.0)
    opt = cv.NaturalGradient(OBJECTIVE, structure, damping=1e30, search=search)
    _, info = change_and_info(opt, model, batch)
    assert np.isfinite(info.solver_residual)
