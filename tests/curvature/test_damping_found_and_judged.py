"""Levenberg–Marquardt that finds its first λ, and is judged on the batch after each step."""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature import cases
from tests.curvature.written import Written, at, poisoned, trajectory
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("standard_promotion")

STEPS = 8
KEYS = jax.random.split(jax.random.key(0), STEPS)


# --- the first λ -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("next_batch", "l2"), slow_but([(True, 0.3)], [(False, None), (True, 0.3)])
)
def test_the_first_damping_is_the_curvature_along_the_gradient(x64, next_batch, l2):
    """It is gᵀCg/gᵀg of the first batch with a finite loss; those before it leave no trace."""
    case, bad = cases.tanh("categorical"), 0
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical(), l2=l2),
        curvature=cv.ExactFisher(),
        damping=cv.LevenbergMarquardt(next_batch=next_batch),
    )
    _, infos = jax.jit(lambda: trajectory(case, optimiser, KEYS[:3], poisoned(case, 3, bad)))()
    written = Written(case, "exact_fisher")
    _, g, C = written(written.w)
    assert list(infos.accepted) == [False, True, True]
    np.testing.assert_allclose(infos.damping[1], g @ C @ g / (g @ g), rtol=1e-10)
    factor = 1.0
    if not next_batch:
        ratio = infos.reduction_ratio[1]
        factor = 3 / 2 if ratio < 1 / 4 else 2 / 3 if ratio > 3 / 4 else 1.0
    else:
        ratio = infos.reduction_ratio[2]
        factor = (3 / 2 if ratio < 1 / 4 else 2 / 3 if ratio > 3 / 4 else 1.0) ** (1 / 3)
    np.testing.assert_allclose(infos.damping[2], factor * infos.damping[1], rtol=1e-10)


def found(scale, policy=None, dtype=jnp.float32):
    policy = cv.LevenbergMarquardt() if policy is None else policy
    begun = policy.begin(
        policy.init(dtype), step=jnp.asarray(0), scale=lambda: jnp.asarray(scale, dtype)
    )
    return policy, begun


def updated(policy, damping, ratio, accepted=True):
    ratio = jnp.asarray(ratio, damping.dtype)
    return policy.update(damping, reduction_ratio=ratio, accepted=jnp.asarray(accepted))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_found_damping_stays_within_the_bounds(x64, dtype):
    """By default no less than the roundoff of the dtype, which is where it is held, too."""
    eps = np.finfo(dtype).eps
    for scale, expected in ((0.0, eps), (1e-30, eps), (0.3, dtype(0.3)), (1e12, 1e8)):
        policy, damping = found(scale, dtype=dtype)
        assert damping == expected
        assert damping.dtype == dtype
    for _ in range(200):
        damping = updated(policy, damping, 1.0)
    assert damping == eps
    assert updated(policy, damping, 0.0) == dtype(1.5) * eps
    policy, damping = found(1e-9, cv.LevenbergMarquardt(minimum=1e-3, maximum=2.0), dtype)
    assert damping == dtype(1e-3)


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_a_damping_that_was_not_found_is_found_later(scale):
    """After a rejection, too; and one that was found is not found again."""
    policy, damping = found(scale)
    assert damping == 0
    damping = updated(policy, damping, np.nan, accepted=False)
    assert damping == 0
    for size in (0.5, 7.0):
        scale = jnp.asarray(size, jnp.float32)
        damping = policy.begin(damping, step=jnp.asarray(1), scale=lambda scale=scale: scale)
        assert damping == np.float32(0.5)


@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_it_is_found_for_gradients_of_any_size_in_float32(size):
    """Their squares, times C, are out of the range of float32."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    model = eqx.nn.Linear(3, 1, use_bias=False, key=jax.random.key(0))
    optimiser = cv.NaturalGradient(cv.Supervised(cv.Gaussian(1.0)), damping=cv.LevenbergMarquardt())
    y = size * jnp.ones((4, 1), jnp.float32)
    _, _, info = optimiser.step(model, (x, y), optimiser.init(model))
    C = np.asarray(x.T @ x) / 4
    g = np.asarray(x.T @ (jax.vmap(model)(x) - y))[:, 0].astype(np.float64)
    np.testing.assert_allclose(info.damping, g @ C @ g / (g @ g), rtol=1e-5)


# --- judged on the next batch ----------------------------------------------------------------


def test_on_a_quadratic_the_ratio_is_one_and_the_factor_a_cube_root(x64):
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.normal(size=(6, 2)))
    model = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Gaussian()), damping=cv.LevenbergMarquardt(1.0, next_batch=True)
    )
    state = optimiser.init(model)
    for step in range(4):
        model, state, info = optimiser.step(model, batch, state)
        if step == 0:
            assert np.isnan(info.reduction_ratio)
        else:
            np.testing.assert_allclose(info.reduction_ratio, 1.0, rtol=1e-9)
        np.testing.assert_allclose(info.damping, (2 / 3) ** (step / 3), rtol=1e-12)


def test_ratio_and_damping_are_those_of_the_averages_written_densely(x64):
    """On batches of their own, one of them not finite, and with one step that is rejected."""
    case, bad, wild = cases.tanh("categorical"), 2, 5
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(STEPS, 5, 3)))
    y = jnp.asarray(rng.integers(3, size=(STEPS, 5)))
    optimiser = cv.NaturalGradient(
        case.objective,
        curvature=cv.GaussNewton(),
        damping=cv.LevenbergMarquardt(0.05, next_batch=True),
        search=cv.ScheduledLearningRate(lambda step: jnp.where(step == wild, 1e4, 0.5)),
    )
    ws, infos = jax.jit(
        lambda: trajectory(case, optimiser, KEYS, (x.at[bad, 1, 1].set(jnp.nan), y))
    )()
    ws = np.asarray(ws)
    params, static = eqx.partition(case.model, eqx.is_inexact_array)
    unravel = jfu.ravel_pytree(params)[1]

    def loss(w, x, y):
        z = jax.vmap(eqx.combine(unravel(w), static))(x)
        return -jnp.mean(jax.nn.log_softmax(z)[jnp.arange(5), y])

    @jax.jit
    def written(w, x, y):
        def outputs(w):
            return jax.vmap(eqx.combine(unravel(w), static))(x)

        J, p = jax.jacrev(outputs)(w), jax.nn.softmax(outputs(w))
        M = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]
        return (*jax.value_and_grad(loss)(w, x, y), jnp.einsum("icp,icd,idq->pq", J, M, J) / 5)

    damping, gained, promised, last = 0.05, None, None, None
    for k in range(STEPS):
        w, info = ws[k], at(infos, k)
        if k != bad and last is not None:
            before, s, slope, metric, accepted = last
            if accepted:
                m = s * slope - s**2 * metric / 2
                L_before, g_before, _ = written(before, x[k], y[k])
                gain = (L_before - loss(w, x[k], y[k])) / m
                promise = ((before - w) @ g_before - s**2 * metric / 2) / m
                first = gained is None
                gained = gain if first else 0.8 * gained + 0.2 * gain
                promised = promise if first else 0.8 * promised + 0.2 * promise
            ratio = gained / promised if promised > 0 else -np.inf
            factor = 3 / 2 if ratio < 1 / 4 else 2 / 3 if ratio > 3 / 4 else 1.0
            damping *= factor ** (1 / 3) if accepted else 4.0
        if gained is None:
            assert np.isnan(info.reduction_ratio)
        else:  # the averages of before, where this batch is not finite
            ratio = gained / promised if promised > 0 else -np.inf
            np.testing.assert_allclose(info.reduction_ratio, ratio, rtol=1e-6, err_msg=str(k))
        np.testing.assert_allclose(info.damping, damping, rtol=1e-10, err_msg=str(k))
        assert info.accepted == (k not in (bad, wild)), k
        if k == bad:
            last = w, 0.0, 0.0, 0.0, False
            continue
        _, g, C = written(w, x[k], y[k])
        d = np.linalg.solve(C + damping * np.eye(len(w)), g)
        s = 1e4 if k == wild else 0.5
        last = w, s, d @ g, d @ C @ d, bool(info.accepted)


def test_with_a_penalty_the_ratio_of_a_quadratic_is_one_from_zero_weights(x64):
    """The loss is differentiated at w = 0, where a norm has no derivative."""
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.normal(size=(6, 2)))
    model = jax.tree.map(jnp.zeros_like, eqx.nn.Linear(3, 2, key=jax.random.key(0)))
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Gaussian(), l2=0.3), damping=cv.LevenbergMarquardt(1.0, next_batch=True)
    )
    model, state, _ = optimiser.step(model, batch, optimiser.init(model))
    _, _, info = optimiser.step(model, batch, state)
    np.testing.assert_allclose(info.reduction_ratio, 1.0, rtol=1e-9)
