"""`LevenbergMarquardt` with the first λ from the first batch, and with `next_batch`."""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature import cases
from tests.curvature.test_damping import begun, updated, weights
from tests.curvature.written import MODELS, Written, at, poisoned, trajectory
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("as_installed")

STEPS = 8
KEYS = jax.random.split(jax.random.key(0), STEPS)


def factor(ratio, power=1.0):
    return (3 / 2 if ratio < 1 / 4 else 2 / 3 if ratio > 3 / 4 else 1.0) ** power


# --- the first λ -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("next_batch", "l2"), slow_but([(True, 0.3)], [(False, None), (True, 0.3)])
)
def test_the_first_damping_is_the_curvature_along_the_gradient(x64, next_batch, l2):
    """λ is gᵀCg/gᵀg of the first batch with a finite loss; a batch before it has no effect."""
    case, bad = MODELS["one layer"]("categorical"), 0
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical(), l2=l2),
        curvature=cv.ExactFisher(),
        solver=lx.Cholesky(),
        damping=cv.LevenbergMarquardt(next_batch=next_batch),
    )
    _, infos = trajectory(case, optimiser, KEYS[:3], poisoned(case, 3, bad))
    written = Written(case, "exact_fisher")
    _, g, C = written(written.w)
    assert list(infos.accepted) == [False, True, True]
    np.testing.assert_allclose(infos.damping[1], g @ C @ g / (g @ g), rtol=1e-10)
    if next_batch:
        assert infos.reduction_ratio[1] == 1  # no step was evaluated
        expected = factor(infos.reduction_ratio[2], 1 / 3)
    else:
        expected = factor(infos.reduction_ratio[1])
    np.testing.assert_allclose(infos.damping[2], expected * infos.damping[1], rtol=1e-10)


def first_chosen(scale, policy=None, dtype=jnp.float32):
    policy = cv.LevenbergMarquardt() if policy is None else policy
    return policy, begun(policy, policy.init(weights(dtype)), dtype, scale, step=0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_first_damping_stays_within_the_bounds(x64, dtype):
    """The default minimum is the roundoff of the dtype, for the first λ and for later ones."""
    eps = np.finfo(dtype).eps
    for scale, expected in ((0.0, eps), (1e-30, eps), (0.3, dtype(0.3)), (1e12, 1e8)):
        policy, chosen = first_chosen(scale, dtype=dtype)
        assert chosen.damping == expected
        assert chosen.damping.dtype == dtype
    state = chosen.state
    state = jax.jit(
        lambda state: jax.lax.fori_loop(
            0, 200, lambda _, s: updated(policy, begun(policy, s, dtype), 1.0), state
        )
    )(state)
    assert state.damping == eps
    assert updated(policy, begun(policy, state, dtype), 0.0).damping == dtype(1.5) * eps
    _, chosen = first_chosen(1e-9, cv.LevenbergMarquardt(minimum=1e-3, maximum=2.0), dtype)
    assert chosen.damping == dtype(1e-3)


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_the_damping_is_initialised_on_the_first_batch_where_it_is_finite(scale):
    """It is also initialised after a rejected step. It is initialised only once."""
    policy, chosen = first_chosen(scale)
    assert chosen.damping == 0
    state = updated(policy, chosen, np.nan, accepted=False)
    assert state.damping == 0
    for size in (0.5, 7.0):
        chosen = begun(policy, state, scale=size)
        assert chosen.damping == np.float32(0.5)
        state = chosen.state


@pytest.mark.parametrize("size", slow_but([1e15], [1e-15, 1e15]))
def test_the_first_damping_is_right_for_gradients_of_any_size_in_float32(size):
    """The squares of these gradients, times C, are out of the range of float32."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    model = eqx.nn.Linear(3, 1, use_bias=False, key=jax.random.key(0))
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Gaussian(1.0)), solver=lx.Cholesky(), damping=cv.LevenbergMarquardt()
    )
    y = size * jnp.ones((4, 1), jnp.float32)
    _, _, info = optimiser.step(model, (x, y), optimiser.init(model))
    C = np.asarray(x.T @ x) / 4
    g = np.asarray(x.T @ (jax.vmap(model)(x) - y))[:, 0].astype(np.float64)
    np.testing.assert_allclose(info.damping, g @ C @ g / (g @ g), rtol=1e-5)


# --- the reduction ratio on the next batch ---------------------------------------------------


@pytest.mark.parametrize("l2", slow_but([0.3], [None, 0.3]))
def test_on_a_quadratic_the_ratio_is_one_and_the_factor_a_cube_root(x64, l2):
    """The weights start at zero, where `next_batch` differentiates the loss.

    A penalty that is written with a norm would have no derivative there.
    """
    model = jax.tree.map(jnp.zeros_like, eqx.nn.Linear(3, 3, key=jax.random.key(0)))
    case = cases.supervised(model, "gaussian")
    damping = cv.LevenbergMarquardt(1.0, next_batch=True)
    objective = cv.Supervised(cv.Gaussian(cases.VARIANCE), l2=l2)
    optimiser = cv.NaturalGradient(objective, solver=lx.Cholesky(), damping=damping)
    _, infos = trajectory(case, optimiser, KEYS[:4])
    np.testing.assert_allclose(infos.reduction_ratio, 1.0, rtol=1e-9)
    np.testing.assert_allclose(infos.damping, (2 / 3) ** (np.arange(4) / 3), rtol=1e-12)


def test_ratio_and_damping_are_those_of_the_averages_written_densely(x64):
    """Every step has its own batch; one batch is not finite, and another step is rejected."""
    case, bad, wild = MODELS["one layer"]("categorical"), 2, 5
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(STEPS, 5, 3)))
    y = jnp.asarray(rng.integers(3, size=(STEPS, 5)))
    optimiser = cv.NaturalGradient(
        case.objective,
        curvature=cv.GaussNewton(),
        solver=lx.Cholesky(),
        damping=cv.LevenbergMarquardt(0.05, next_batch=True),
        search=cv.ScheduledLearningRate(lambda step: jnp.where(step == wild, 1e4, 0.5)),
    )
    ws, infos = trajectory(case, optimiser, KEYS, (x.at[bad, 1, 1].set(jnp.nan), y))
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
                gain = (L_before - written(w, x[k], y[k])[0]) / m
                promise = ((before - w) @ g_before - s**2 * metric / 2) / m
                first = gained is None
                gained = gain if first else 0.8 * gained + 0.2 * gain
                promised = promise if first else 0.8 * promised + 0.2 * promise
            ratio = gained / promised if promised > 0 else -np.inf
            damping *= factor(ratio, 1 / 3) if accepted else 4.0
        ratio = 1.0  # as long as no step was evaluated
        if gained is not None:  # if this batch is not finite, the averages are the old ones
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


def test_a_derivative_through_the_first_steps_is_a_finite_difference(x64):
    """Before the first step there is no step to evaluate: 0/0 must not reach the derivative."""
    model = eqx.nn.Linear(3, 4, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 3))
    batch = x, jnp.arange(6) % 4
    objective = cv.Supervised(cv.Categorical())
    damping = cv.LevenbergMarquardt(1.0, next_batch=True)
    opt = cv.NaturalGradient(objective, damping=damping, search=optx.LearningRate(1.0))
    w, unravel = jfu.ravel_pytree(model)

    @jax.jit
    def loss(w):
        def one(carry, _):
            w, state = carry
            new, state, _ = opt.step(unravel(w), batch, state)
            return (jfu.ravel_pytree(new)[0], state), None

        (w, _), _ = jax.lax.scan(one, (w, opt.init(unravel(w))), None, length=2)
        return objective.loss(unravel(w), batch)

    along = jnp.cos(jnp.arange(w.size, dtype=w.dtype))
    difference = (loss(w + 1e-5 * along) - loss(w - 1e-5 * along)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(w) @ along, difference, rtol=1e-6)
