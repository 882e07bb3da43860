"""The average of the metric over the steps, against dense matrices."""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import curvature as cv
from tests.selection import slow_but

OBJECTIVE = cv.Supervised(cv.Categorical())
DECAY, DAMPING = 0.9, 0.1


@pytest.fixture
def model():
    return eqx.nn.MLP(4, 3, 5, 1, key=jax.random.key(2))


@pytest.fixture
def batches():
    x = jax.random.normal(jax.random.key(0), (3, 40, 4))
    return list(zip(x, jax.random.randint(jax.random.key(1), (3, 40), 0, 3), strict=True))


def dense(model, batch):
    """The exact Fisher and the gradient, by definition."""
    params, frozen = eqx.partition(model, eqx.is_inexact_array)
    w, unravel = jfu.ravel_pytree(params)

    def at(w):
        return eqx.combine(unravel(w), frozen)

    logits, J = jax.vmap(model)(batch[0]), jax.jacrev(lambda w: jax.vmap(at(w))(batch[0]))(w)
    p = jax.nn.softmax(logits)
    M = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(p)
    C = jnp.einsum("ncp,ncd,ndq->pq", J, M, J) / len(p)
    return C, jax.grad(lambda w: OBJECTIVE.loss(at(w), batch))(w), w


SOLVERS = [None, lx.Cholesky(), cv.CG(rtol=1e-12, max_steps=300)]


@pytest.mark.parametrize("solver", slow_but(SOLVERS[:1], SOLVERS))
def test_steps_are_those_of_the_average(x64, model, batches, solver):
    opt = cv.NaturalGradient(
        OBJECTIVE, cv.ExactFisher(), solver=solver, damping=DAMPING, metric_decay=DECAY
    )
    state, metrics = opt.init(model), []
    for batch in batches:
        C, g, w = dense(model, batch)
        metrics.append(C)
        weights = DECAY ** np.arange(len(metrics))[::-1]
        average = sum(a * C for a, C in zip(weights, metrics, strict=True)) / sum(weights)
        d = jnp.linalg.solve(average + DAMPING * jnp.eye(len(w)), g)
        model, state, info = opt.step(model, batch, state)
        assert info.accepted
        new, _ = jfu.ravel_pytree(eqx.filter(model, eqx.is_inexact_array))
        np.testing.assert_allclose(new, w - d, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(info.metric_step, d @ average @ d / 2, rtol=1e-7)


def test_a_batch_that_is_not_finite_leaves_the_average(model, batches):
    opt = cv.NaturalGradient(OBJECTIVE, cv.ExactFisher(), damping=DAMPING, metric_decay=DECAY)
    model, state, _ = opt.step(model, batches[0], opt.init(model))
    x, y = batches[1]
    after, new, info = opt.step(model, (x.at[0, 0].set(jnp.nan), y), state)
    assert not info.accepted
    assert eqx.tree_equal(after, model)
    assert eqx.tree_equal(new.metric, state.metric)


def test_it_averages_away_the_noise_of_sampled_targets(x64, model, batches):
    """At weights that stand still, t draws of the targets have a variance t times smaller."""
    C, _, _ = dense(model, batches[0])
    opt = cv.NaturalGradient(
        OBJECTIVE, cv.SampledFisher(), damping=1e12, metric_decay=0.999, solver=lx.Cholesky()
    )

    def after(steps):
        state = opt.init(model)
        for i in range(steps):
            _, state, _ = opt.step(model, batches[0], state, key=jax.random.key(i))
        weight = 1 - 0.999**steps
        return float(jnp.linalg.norm(state.metric.total / weight - C))

    assert after(64) < after(1) / 4


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, float("nan")])
def test_refuses_a_decay_outside_of_the_open_interval(decay):
    with pytest.raises(ValueError, match=r"`NaturalGradient\(metric_decay=...\)` must"):
        cv.NaturalGradient(OBJECTIVE, metric_decay=decay)


def test_refuses_a_model_too_large_for_a_dense_matrix():
    model = eqx.nn.Linear(100, 100, key=jax.random.key(0))
    opt = cv.NaturalGradient(OBJECTIVE, metric_decay=DECAY)
    with pytest.raises(ValueError, match="for at most 8,192 trainable weights, got 10,100"):
        opt.init(model)
