"""The average of the weights over accepted steps, against its definition as a sum."""

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import curvature as cv
from tests.curvature.tools import cast
from tests.curvature.written import flat
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("standard_promotion", "as_installed")

SGD = cv.FirstOrder(cv.Supervised(cv.Gaussian()), optax.sgd(0.3))


def linear():
    return eqx.nn.Linear(2, 1, key=jax.random.key(0))


def batch(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, 2)), rng.normal(size=(4, 1))


def written(weights, decay):
    """The average Σ_s β^(t−s) w_s / Σ_s β^(t−s) in float64."""
    shares = (1.0 if decay is None else decay) ** np.arange(len(weights))[::-1]
    return shares @ np.asarray(weights, np.float64) / shares.sum()


DECAYS = [None, 0.2, 0.9, 0.9999]
ALL = [(decay, dtype) for decay in DECAYS for dtype in ("float32", "float64")]


@pytest.mark.parametrize(("decay", "dtype"), slow_but([(0.9, "float32")], ALL))
def test_it_is_the_average_of_the_weights_after_accepted_steps(x64, decay, dtype):
    """Even for β near 1 the first average is w₁: there is no bias that must be corrected."""
    steps, bad = 30, (0, 5)
    opt, model = cv.Averaged(SGD, decay), cast(linear(), dtype)
    x, y = (np.stack(a).astype(dtype) for a in zip(*map(batch, range(steps)), strict=True))
    x[list(bad), 0, 0] = np.nan
    state = opt.init(model)
    assert eqx.tree_equal(cv.evaluated(opt, model, state), model)

    @eqx.filter_jit
    def run(model, state):
        def body(carry, batch):
            model, state, plain, plain_state = carry
            model, state, info = opt.step(model, batch, state)
            plain, plain_state, _ = SGD.step(plain, batch, plain_state)
            average = cv.evaluated(opt, model, state)
            return (model, state, plain, plain_state), (model, plain, average, info.accepted)

        return jax.lax.scan(body, (model, state, model, SGD.init(model)), (x, y))[1]

    *models, accepted = run(model, state)
    found, plain, averages = (np.concatenate([m.weight[:, 0], m.bias], axis=1) for m in models)
    np.testing.assert_array_equal(found, plain)
    assert [k for k in range(steps) if not accepted[k]] == list(bad)
    np.testing.assert_array_equal(averages[0], flat(model))
    tolerance = {"rtol": 1e-12} if dtype == "float64" else {"rtol": 2e-5, "atol": 2e-6}
    for t in range(1, steps):
        so_far = found[: t + 1][accepted[: t + 1]]
        np.testing.assert_allclose(averages[t], written(so_far, decay), **tolerance)


def test_frozen_weights_are_those_of_the_model(x64):
    opt, model = cv.Averaged(SGD, None), linear()
    spec = eqx.tree_at(lambda m: m.bias, jax.tree.map(lambda _: True, model), False)
    state = opt.init(model, spec)
    first, state, _ = opt.step(model, batch(0), state)
    second, state, _ = opt.step(first, batch(1), state)
    average = cv.evaluated(opt, second, state)
    np.testing.assert_array_equal(average.bias, model.bias)
    np.testing.assert_allclose(average.weight, (first.weight + second.weight) / 2, rtol=1e-12)


def test_an_optimiser_without_an_average_is_evaluated_at_its_model():
    model = linear()
    assert cv.evaluated(SGD, model, SGD.init(model)) is model
