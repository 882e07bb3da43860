"""Weights and numbers in half precision are computed with in float32."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature.tools import flat, network

OBJECTIVE = cv.Supervised(cv.Categorical())
HALF = jnp.bfloat16, jnp.float16
pytestmark = pytest.mark.usefixtures("standard_promotion", "as_installed")


def dtypes(model):
    return {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))}


def test_an_average_moves_by_less_than_a_unit_of_roundoff_of_the_weights():
    (model, batch), decay, steps = network(jnp.bfloat16), 0.99, 200
    step = cv.NaturalGradient(OBJECTIVE, damping=1.0, search=optx.LearningRate(0.5))
    opt, weights = cv.Averaged(step, decay=decay), []
    state = opt.init(model)
    for _ in range(steps):
        model, state, info = opt.step(model, batch, state)
        assert info.accepted
        weights.append(np.asarray(flat(model), np.float64))
    shares = decay ** np.arange(steps)[::-1]
    expected = shares @ weights / shares.sum()
    average = cv.evaluated(opt, model, state)
    assert dtypes(average) == {jnp.dtype(jnp.bfloat16)}
    found = np.asarray(flat(average), np.float64)
    moved = np.linalg.norm(weights[-1] - expected)
    assert np.linalg.norm(found - expected) < 0.1 * moved


@pytest.mark.parametrize("dtype", HALF)
def test_a_proximal_step_keeps_the_dtypes_of_the_weights(dtype):
    model, batch = network(dtype)
    opt = cv.ProximalPoint(OBJECTIVE, strength=10.0)
    new, _, info = opt.step(model, batch, opt.init(model))
    assert info.accepted
    assert dtypes(new) == {jnp.dtype(dtype)}


@pytest.mark.parametrize("dtype", HALF)
def test_unit_weights_of_the_examples_do_not_change_the_loss(dtype):
    model, (x, y) = network(jnp.float32, n=100)
    found = OBJECTIVE.loss(model, (x, y, jnp.ones(100, dtype)))
    np.testing.assert_allclose(found, OBJECTIVE.loss(model, (x, y)), rtol=1e-6)
