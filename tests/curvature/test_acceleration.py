"""Geodesic acceleration, against a dense computation of the same step in float64."""

import dataclasses

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("x64")

DAMPING = 0.3
CATEGORICAL = cv.Supervised(cv.Categorical())


def problem():
    x_key, y_key, model_key = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(x_key, (7, 3))
    y = jax.random.randint(y_key, (7,), 0, 4)
    return eqx.nn.MLP(3, 4, 5, 1, activation=jnp.tanh, key=model_key), (x, y)


@eqx.filter_jit
def dense(model, batch, most, s):
    """The weights after a step of size s, and the factor that shortens the acceleration a.

    They are computed from dense derivatives of the outputs of all examples.
    """
    x, y = batch
    params, static = eqx.partition(model, eqx.is_inexact_array)
    w, unravel = jfu.ravel_pytree(params)

    def outputs(w):
        return jax.vmap(eqx.combine(unravel(w), static))(x)

    def loss_of(z):
        return -jnp.mean(jax.vmap(jax.nn.log_softmax)(z)[jnp.arange(len(y)), y])

    z = outputs(w)
    J = jax.jacrev(outputs)(w).reshape(z.size, w.size)
    H = jax.hessian(loss_of)(z).reshape(z.size, z.size)
    second = jax.jacfwd(jax.jacrev(outputs))(w).reshape(z.size, w.size, w.size)
    C = J.T @ H @ J + DAMPING * jnp.eye(w.size)
    d = jnp.linalg.solve(C, J.T @ jax.grad(loss_of)(z).ravel())
    a = -jnp.linalg.solve(C, J.T @ H @ jnp.einsum("zij,i,j->z", second, d, d))
    share = jnp.minimum(1, most * jnp.linalg.norm(d) / (2 * jnp.linalg.norm(a)))
    return w - s * d + s**2 / 2 * share * a, share


@pytest.mark.parametrize("micro_batch", slow_but([3], [None, 3]))
@pytest.mark.parametrize("solver", [cv.SampleSpace(), cv.CG(rtol=1e-13, max_steps=500), cv.Auto()])
@pytest.mark.parametrize(("most", "s"), slow_but([(0.05, 0.5)], [(1e3, 1.0), (0.05, 0.5)]))
def test_the_step_is_that_of_dense_derivatives(solver, micro_batch, most, s):
    model, batch = problem()
    objective = dataclasses.replace(CATEGORICAL, micro_batch=micro_batch)
    search = optx.LearningRate(s)
    opt = cv.NaturalGradient(
        objective, solver=solver, damping=DAMPING, search=search, acceleration=most
    )
    new, _, info = opt.step(model, batch, opt.init(model))
    assert info.accepted
    expected, share = dense(model, batch, jnp.asarray(most), jnp.asarray(s))
    assert (share < 1) == (most < 1)
    found = jfu.ravel_pytree(eqx.filter(new, eqx.is_inexact_array))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    before = jfu.ravel_pytree(eqx.filter(model, eqx.is_inexact_array))[0]
    np.testing.assert_allclose(info.step_norm, np.linalg.norm(found - before), rtol=1e-9)


def test_a_model_that_is_linear_in_its_weights_has_no_acceleration():
    model, batch = eqx.nn.Linear(3, 4, key=jax.random.key(1)), problem()[1]
    steps = [
        cv.NaturalGradient(CATEGORICAL, damping=DAMPING, acceleration=acceleration)
        for acceleration in (None, 0.75)
    ]
    straight, bent = (opt.step(model, batch, opt.init(model))[0] for opt in steps)
    np.testing.assert_allclose(bent.weight, straight.weight, rtol=1e-12)


@pytest.mark.usefixtures("as_installed")
def test_a_derivative_through_a_step_without_acceleration():
    """Its length is 0, where the derivative of a root is infinite."""
    model, batch = eqx.nn.Linear(3, 4, key=jax.random.key(1)), problem()[1]

    def weight(damping, acceleration):
        opt = cv.NaturalGradient(
            CATEGORICAL,
            damping=damping,
            search=optx.LearningRate(1.0),
            acceleration=acceleration,
        )
        return jnp.sum(opt.step(model, batch, opt.init(model))[0].weight ** 2)

    found, expected = (jax.grad(weight)(DAMPING, most) for most in (0.75, None))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("search", [optx.LearningRate(1.0), optx.BacktrackingArmijo()])
def test_the_loss_is_evaluated_on_the_curve(search):
    """The predicted reduction is that of the straight step, so ratios are as the reductions."""
    model, batch = problem()
    ratios, reductions = [], []
    for acceleration in (None, 0.75):
        opt = cv.NaturalGradient(
            CATEGORICAL,
            damping=cv.LevenbergMarquardt(DAMPING),
            search=search,
            acceleration=acceleration,
        )
        new, _, info = opt.step(model, batch, opt.init(model))
        assert info.accepted
        ratios.append(info.reduction_ratio)
        reductions.append(CATEGORICAL.loss(model, batch) - CATEGORICAL.loss(new, batch))
    assert min(reductions) > 0
    assert abs(reductions[1] / reductions[0] - 1) > 1e-3
    np.testing.assert_allclose(ratios[1] / ratios[0], reductions[1] / reductions[0], rtol=1e-9)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_an_acceleration_that_is_not_positive_is_refused(wrong):
    with pytest.raises(ValueError, match=r"acceleration=...\)` must be a positive finite number"):
        cv.NaturalGradient(CATEGORICAL, acceleration=wrong)
