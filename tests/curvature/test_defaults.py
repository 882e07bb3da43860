"""With the defaults of the library, training reduces the loss of every model of the zoo."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from data import first_of
from tests.curvature.zoo import problems
from tests.selection import slow_but

EXAMPLES, SEEDS = 120, range(5)


@pytest.mark.parametrize("seed", slow_but([0], SEEDS))
def test_the_loss_of_a_small_net_decreases(seed: int):
    x_key, model_key, key = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(x_key, (64, 5))
    batch = x, (x[:, 0] * x[:, 1] > 0).astype(jnp.int32)
    model = eqx.nn.MLP(5, 2, 16, 2, key=model_key)
    opt = cv.NaturalGradient(cv.Supervised(cv.Categorical()))
    state, losses = opt.init(model), []
    for step in range(30):
        model, state, info = opt.step(model, batch, state, key=jax.random.fold_in(key, step))
        losses.append(float(info.loss))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [40, None], ids=["minibatch", "full batch"])
@pytest.mark.parametrize("problem", problems(), ids=lambda problem: problem.name)
def test_the_loss_of_every_model_of_the_zoo_decreases(problem, batch_size: int | None):
    opt = cv.NaturalGradient(problem.objective)
    loss = eqx.filter_jit(problem.objective.loss)
    whole = jax.tree.map(jnp.asarray, first_of(problem.dataset, EXAMPLES).train)
    for seed in SEEDS:
        key = jax.random.key(seed)
        model = problem.model(key)
        state, before = opt.init(model), loss(model, whole)
        for step in range(3):
            rows = np.random.default_rng([seed, step]).permutation(EXAMPLES)[:batch_size]
            batch = jax.tree.map(lambda array, rows=rows: array[rows], whole)
            model, state, info = opt.step(model, batch, state, key=jax.random.fold_in(key, step))
            assert info.accepted
        assert loss(model, whole) < before
