"""Factored damping of `cv.KFAC`: its formula, its refreshes, and the numbers of a solve."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature import cases
from tests.curvature.structures.test_averages import DECAY, factors
from tests.curvature.tools import distance
from tests.curvature.written import one_layer
from tests.selection import slow_but

EVERY, LAMBDAS = 3, (0.3, 0.1, 0.7, 0.2, 0.05, 0.4, 0.01)
OBJECTIVE = cv.Supervised(cv.Gaussian(cases.VARIANCE))
FACTORED = cv.KFAC(cv.GaussNewton(), decay=DECAY, every=EVERY, damping="factored")


def written(G, A, damping):
    """The dense matrix (G + √λ/π I)⁻¹ ⊗ (A + π√λ I)⁻¹."""
    pi = np.sqrt(np.trace(A) / len(A) / (np.trace(G) / len(G)))
    root = np.sqrt(damping)
    shifted = G + root / pi * np.eye(len(G)), A + root * pi * np.eye(len(A))
    return np.kron(*map(np.linalg.inv, shifted))


@pytest.mark.parametrize("l2", slow_but([0.2], [None, 0.2]))
def test_inverses_are_those_of_the_last_refresh(x64, l2):
    """The inverses are recomputed at the first three steps and at every third one.

    They use the factors and the λ of that step.
    """
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(len(LAMBDAS), 5, 3)), rng.normal(size=9)
    model = one_layer()
    vector = eqx.tree_at(lambda m: m.linear.weight, model, jnp.asarray(g.reshape(3, 3)))
    params = eqx.filter(model, eqx.is_inexact_array)
    scale = cv.scale_by_curvature(
        cv.Supervised(cv.Gaussian(cases.VARIANCE), l2=l2),
        FACTORED,
        damping=lambda count: jnp.asarray(LAMBDAS)[count],
        model=model,
        batch=(jnp.asarray(x[0]), jnp.zeros((5, 3))),
    )
    state = scale.init(params)
    seen_A, seen_G = [], []
    for step, damping in enumerate(np.asarray(LAMBDAS) + (l2 or 0)):
        batch = jnp.asarray(x[step]), jnp.zeros((5, 3))
        found, state = scale.update(
            eqx.filter(vector, eqx.is_inexact_array), state, params, model=model, batch=batch
        )
        d = np.asarray(found.linear.weight).ravel()
        G, A, _ = factors(np.asarray(model.linear.weight), x[step])
        seen_A.append(A), seen_G.append(G)
        shares = DECAY ** np.arange(len(seen_A))[::-1]
        G, A = (np.einsum("t,tij->ij", shares, seen) / shares.sum() for seen in (seen_G, seen_A))
        if step < 3 or step % EVERY == 0:
            inverse = written(G, A, damping)
        np.testing.assert_allclose(d, inverse @ g, rtol=1e-9)
        # The residual is that of the latest G ⊗ A with the λ of this step.
        left = g - np.kron(G, A) @ d - damping * d
        expected = np.linalg.norm(left) / np.linalg.norm(g)
        np.testing.assert_allclose(state.solver_residual, expected, atol=1e-12)


def test_a_solve_reports_the_numbers_of_its_matrix(x64):
    """It inverts another matrix, so its residual is not zero."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(6, 3)))
    here = OBJECTIVE.linearise(one_layer(), (x, jnp.zeros((6, 3))))
    operator = eqx.filter_jit(FACTORED.operator)(here)
    solve = eqx.filter_jit(lambda damping: operator.solve(here.grad, damping))
    G, A, _ = factors(np.asarray(here.params.linear.weight), np.asarray(x))
    assert distance(operator.as_matrix(), np.kron(G, A)) <= 1e-12
    assert distance(operator.diagonal(), np.diag(np.kron(G, A))) <= 1e-12
    g = np.asarray(here.grad.linear.weight).ravel()
    for damping in (1e-8, 1e-3, 10.0):
        inverse = written(G, A, damping)
        solved = solve(jnp.asarray(damping))
        d = np.asarray(solved.direction.linear.weight).ravel()
        np.testing.assert_allclose(d, inverse @ g, rtol=1e-6)
        left = g - np.kron(G, A) @ d - damping * d
        np.testing.assert_allclose(solved.metric, d @ np.kron(G, A) @ d, rtol=1e-5)
        np.testing.assert_allclose(solved.squared_residual, left @ left, rtol=1e-5)
        assert solved.squared_residual > 0


def test_as_a_preconditioner_it_changes_no_solution(x64):
    x = jnp.asarray(np.random.default_rng(2).normal(size=(6, 3)))
    batch, parts = (x, jnp.zeros((6, 3))), {"damping": 0.03}
    models = []
    for more in (
        {"solver": cv.CG(rtol=1e-12, max_steps=100), "preconditioner": FACTORED},
        {"solver": cv.SampleSpace()},
    ):
        opt = cv.NaturalGradient(OBJECTIVE, **parts, **more)
        model, state = one_layer(), opt.init(one_layer(), batch=batch)
        for _ in range(2):
            model, state, _ = opt.step(model, batch, state)
        models.append(model.linear.weight)
    np.testing.assert_allclose(*models, rtol=1e-9)


def test_a_derivative_in_the_damping_is_refused(x64):
    x = jnp.ones((4, 3))
    batch, model = (x, jnp.zeros((4, 3))), one_layer()

    def loss(damping):
        opt = cv.NaturalGradient(OBJECTIVE, FACTORED, damping=damping)
        new, _, _ = opt.step(model, batch, opt.init(model, batch=batch))
        return jnp.sum(new.linear.weight)

    with pytest.raises(ValueError, match=r'damping="factored".* no derivative'):
        jax.grad(loss)(0.1)


def test_factors_of_very_different_sizes_have_a_finite_inverse():
    """The quotient of their traces overflows in float32, its root does not."""
    objective = cv.Supervised(cv.Gaussian(variance=1e36))
    x = jnp.asarray(1e3 * np.random.default_rng(1).normal(size=(6, 3)), jnp.float32)
    operator = FACTORED.operator(objective.linearise(one_layer(), (x, jnp.zeros((6, 3)))))
    assert np.isfinite(operator.inverse(jnp.float32(1)).as_matrix()).all()


@pytest.mark.usefixtures("as_installed")
def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"`KFAC\(damping=...\)`.*'exact'.*'factored'.*got"):
        cv.KFAC(cv.GaussNewton(), damping="both")
