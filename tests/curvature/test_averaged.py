"""The average of the weights over accepted steps, against the sum that defines it."""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import curvature as cv

pytestmark = pytest.mark.usefixtures("standard_promotion")

SGD = cv.FirstOrder(cv.Supervised(cv.Gaussian()), optax.sgd(0.3))


def linear():
    return eqx.nn.Linear(2, 1, key=jax.random.key(0))


def batch(seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(4, 2))), jnp.asarray(rng.normal(size=(4, 1)))


def flat(model):
    return np.asarray(jfu.ravel_pytree(eqx.filter(model, eqx.is_inexact_array))[0])


def written(weights, decay):
    """Σ_s β^(t−s) w_s / Σ_s β^(t−s)."""
    shares = (1.0 if decay is None else decay) ** np.arange(len(weights))[::-1]
    return shares @ np.asarray(weights, np.float64) / shares.sum()


@pytest.mark.parametrize("decay", [None, 0.2, 0.9, 0.9999])
def test_it_is_the_average_of_the_weights_after_accepted_steps(x64, decay):
    opt, model, plain = cv.Averaged(SGD, decay), linear(), linear()
    state, plain_state = opt.init(model), SGD.init(plain)
    assert eqx.tree_equal(cv.evaluated(opt, model, state), model)
    weights = []
    for step in range(8):
        x, y = batch(step)
        if step in (0, 5):
            x = x.at[0, 0].set(jnp.nan)
        before = state
        model, state, info = opt.step(model, (x, y), state)
        plain, plain_state, _ = SGD.step(plain, (x, y), plain_state)
        np.testing.assert_array_equal(flat(model), flat(plain))
        if info.accepted:
            weights.append(flat(model))
        else:
            assert step in (0, 5)
            assert eqx.tree_equal(state, before)
        if weights:
            average = cv.evaluated(opt, model, state)
            np.testing.assert_allclose(flat(average), written(weights, decay), rtol=1e-12)
    assert len(weights) == 6


@pytest.mark.parametrize("decay", [None, 0.9999])
def test_a_long_average_holds_in_float32(decay):
    """The first average is all of w₁, though β is almost 1: no bias to correct, or to round."""
    opt, model = cv.Averaged(SGD, decay), linear()
    batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(batch, range(50)))

    @eqx.filter_jit
    def run(model):
        def body(carry, batch):
            model, state, _ = opt.step(*carry[:1], batch, carry[1])
            return (model, state), (model, cv.evaluated(opt, model, state))

        return jax.lax.scan(body, (model, opt.init(model)), batches)[1]

    models, averages = run(model)
    weights = np.concatenate([models.weight[:, 0], models.bias], axis=1)
    found = np.concatenate([averages.weight[:, 0], averages.bias], axis=1)
    for t in range(50):
        np.testing.assert_allclose(found[t], written(weights[: t + 1], decay), rtol=2e-5, atol=2e-6)


def test_what_is_frozen_is_the_models_own(x64):
    opt, model = cv.Averaged(SGD, None), linear()
    spec = eqx.tree_at(lambda m: m.bias, jax.tree.map(lambda _: True, model), False)
    state = opt.init(model, spec)
    first, state, _ = opt.step(model, batch(0), state)
    second, state, _ = opt.step(first, batch(1), state)
    average = cv.evaluated(opt, second, state)
    np.testing.assert_array_equal(average.bias, model.bias)
    np.testing.assert_allclose(average.weight, (first.weight + second.weight) / 2, rtol=1e-12)


def test_an_optimiser_that_keeps_none_is_evaluated_where_it_stands():
    model = linear()
    assert cv.evaluated(SGD, model, SGD.init(model)) is model


def test_objective_and_plan_are_the_optimisers():
    inner = cv.NaturalGradient(cv.Supervised(cv.Gaussian()))
    opt, model = cv.Averaged(inner, 0.5), linear()
    assert opt.objective is inner.objective
    assert str(opt.plan(model, batch(0))) == str(inner.plan(model, batch(0)))


@pytest.mark.parametrize("decay", [0.0, 1.0, 1, -0.1, float("nan"), "0.9"])
def test_a_decay_outside_its_range_is_refused(as_installed, decay):
    with pytest.raises(ValueError, match=r"`Averaged\(decay=...\)` must"):
        cv.Averaged(SGD, decay)
