"""Momentum: SPRING and `QuadraticMomentum`, against dense equations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from curvature.momentum import Direction
from tests.curvature.written import (
    MODELS,
    Written,
    check_step,
    steps,
    trajectory,
)
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("as_installed")

DECAY, S = 0.8, 0.5
RNG = np.random.default_rng(0)


# --- SPRING ----------------------------------------------------------------------------------


def test_spring_is_the_formula_of_its_paper(x64):
    """ζ = ρ − μAφ, d = Aᵀ(AAᵀ + λI)⁻¹ζ + μφ.

    A and ρ are the rows and the residuals of least squares.
    """
    n, P, damping = 4, 7, 1e-2
    A, y = RNG.normal(size=(n, P)) / n**0.5, RNG.normal(size=n) / n**0.5
    model = eqx.nn.Linear(P, 1, use_bias=False, key=jax.random.key(0))
    batch = jnp.asarray(A * n**0.5), jnp.asarray(y * n**0.5)[:, None]
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Gaussian(1.0)),
        damping=damping,
        momentum=cv.Spring(DECAY),
        solver=lx.Cholesky(),
        search=optx.LearningRate(S),
    )
    state, last = optimiser.init(model), np.zeros(P)
    for _ in range(4):
        w = np.asarray(model.weight)[0]
        zeta = A @ w - y - DECAY * A @ last
        last = A.T @ np.linalg.solve(A @ A.T + damping * np.eye(n), zeta) + DECAY * last
        model, state, info = optimiser.step(model, batch, state)
        assert info.accepted
        np.testing.assert_allclose(np.asarray(model.weight)[0], w - S * last, rtol=1e-9)


@pytest.mark.parametrize(("damping", "bound"), [(1e-9, (1 - 0.9**2) ** -0.5), (1e-1, 10.0)])
def test_spring_amplifies_the_direction_by_no_more_than_its_bound(x64, damping, bound):
    """The first bound holds for a small λ, the second one for any λ.

    Every batch has new random rows, fewer than there are weights.
    """
    # All gradients have the same sign along the last axis, where C is small. For a larger λ the
    # directions therefore add up along this axis.
    batches = np.random.default_rng(1).normal(size=(60, 3, 12)) * np.r_[np.full(11, 1.0), 0.01]
    C = np.einsum("bip,biq->bpq", batches, batches) / 3
    g = np.einsum("bip,bi->bp", batches, np.sign(batches[:, :, -1])) / 3
    policy, last = cv.Spring(0.9), jnp.zeros(12)
    lengths, alone = [], []
    for matrix, b in zip(C, g, strict=True):
        damped = matrix + damping * np.eye(12)
        v = policy.offset(last, jnp.asarray(damping))
        last = jnp.asarray(np.linalg.solve(damped, b + np.asarray(v)))
        lengths.append(np.linalg.norm(last))
        alone.append(np.linalg.norm(np.linalg.solve(damped, b)))
    assert max(alone) < max(lengths) <= bound * max(alone) * (1 + 1e-6)


# --- the plane of two directions -------------------------------------------------------------


def plane(seed=0, P=6):
    """C with a known spectrum, a gradient, a direction and the previous direction."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(P, P)))[0]
    C = Q @ np.diag([3.0, 1.0, 0.3, 0.1, 0.0, 0.0]) @ Q.T
    return C, *rng.normal(size=(3, P))


def combined(C, g, d, last, damping, dtype=np.float64):
    """The direction that `QuadraticMomentum` returns for d, with its numbers."""
    return _combined(*(jnp.asarray(a, dtype) for a in (C, g, d, last, damping)))


@eqx.filter_jit
def _combined(C, g, d, last, damping):
    found = Direction(d, d @ g, d @ C @ d, d @ d)
    operator = lx.MatrixLinearOperator(C, lx.positive_semidefinite_tag)
    return cv.QuadraticMomentum().combine(found, last, g, operator, damping)


def check_numbers(direction, C, g, rtol=1e-9):
    v = np.asarray(direction.vector, np.float64)
    np.testing.assert_allclose(direction.slope, v @ g, rtol=rtol)
    np.testing.assert_allclose(direction.metric, v @ C @ v, rtol=rtol)
    np.testing.assert_allclose(direction.squared_norm, v @ v, rtol=rtol)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("damping", [0.0, 1e-3, 1.0])
def test_it_is_the_minimum_of_the_model_in_the_plane(x64, seed, damping):
    C, g, d, last = plane(seed)
    direction = combined(C, g, d, last, damping)
    V = np.stack([d, last], axis=1)
    B = C + damping * np.eye(len(C))
    weights = np.linalg.solve(V.T @ B @ V, V.T @ g)
    np.testing.assert_allclose(direction.vector, V @ weights, rtol=1e-8)
    check_numbers(direction, C, g)


@pytest.mark.parametrize("size", [1.0, 1e-11, 1e11])
@pytest.mark.parametrize("multiple", [0.0, 1.0, -0.3, 1e-4, 1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_last_direction_that_adds_nothing_is_left_out(x64, dtype, multiple, size):
    """If φ = 0 or φ is parallel to d, there is no plane, and the result is the minimum along d."""
    C, g, d, _ = plane()
    g, d = size * g, size * d
    direction = combined(C, g, d, multiple * d, 0.1, dtype)
    alpha = (g @ d) / (d @ C @ d + 0.1 * d @ d)
    rtol = 1e-3 if dtype == np.float32 else 1e-6
    np.testing.assert_allclose(direction.vector, alpha * d, rtol=rtol)
    check_numbers(direction, C, g, rtol)


@pytest.mark.parametrize("size", [1e-11, 1.0, 1e11])
def test_units_do_not_matter_in_float32(size):
    """The fourth powers of such numbers are out of the range of float32."""
    C, g, d, last = plane()
    direction = combined(C, size * g, size * d, size * last, 0.1, np.float32)
    V = np.stack([d, last], axis=1)
    weights = np.linalg.solve(V.T @ (C + 0.1 * np.eye(6)) @ V, V.T @ g)
    np.testing.assert_allclose(direction.vector / size, V @ weights, rtol=1e-3)


def test_an_exact_solution_and_a_zero_direction_are_kept(x64):
    C, g, _, last = plane()
    d = np.linalg.solve(C + 0.1 * np.eye(len(C)), g)
    direction = combined(C, g, d, last, 0.1)
    np.testing.assert_allclose(direction.vector, d, rtol=1e-9)
    check_numbers(direction, C, g)
    zero = np.zeros_like(last)
    for before in (zero, last):
        direction = combined(C, zero, zero, before, 0.1)
        assert not np.any(np.asarray(direction.vector))
        assert direction.slope == direction.metric == direction.squared_norm == 0


def test_a_zero_gradient_is_stationary_with_momentum(x64):
    model = eqx.nn.Linear(3, 1, use_bias=False, key=jax.random.key(0))
    x = jnp.asarray(RNG.normal(size=(4, 3)))
    solved, other = (x, jax.vmap(model)(x)), (x, jnp.ones((4, 1)))
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Gaussian()),
        momentum=cv.QuadraticMomentum(),
        damping=0.1,
        solver=lx.Cholesky(),
    )
    _, _, info = optimiser.step(model, solved, optimiser.init(model))
    assert cv.RESULTS[info.result].startswith("The gradient is zero")
    new, state, info = optimiser.step(model, other, optimiser.init(model))
    assert info.accepted
    _, _, info = optimiser.step(new, (x, jax.vmap(new)(x)), state)
    assert cv.RESULTS[info.result].startswith("The gradient is zero")


@pytest.mark.parametrize("l2", slow_but([0.2], [None, 0.2]))
def test_steps_with_truncated_solves_are_those_written_densely(x64, l2):
    case, solver = MODELS["one layer"]("categorical"), cv.CG(rtol=1e-12, max_steps=3)
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical(), l2=l2),
        solver=solver,
        damping=cv.LevenbergMarquardt(0.03),
        momentum=cv.QuadraticMomentum(),
        search=optx.LearningRate(1.0),
    )
    ws, infos = trajectory(case, optimiser, jax.random.split(jax.random.key(0), 3))
    strength = 0.0 if l2 is None else l2
    written = Written(case, "gauss_newton", l2=strength)

    @jax.jit
    def truncated(B, g):
        matrix = lx.MatrixLinearOperator(B, lx.positive_semidefinite_tag)
        return lx.linear_solve(matrix, g, solver, throw=False).value

    last = np.zeros(len(written.w))
    for k, w, new, info in steps(ws, infos):
        _, g, C = written(w)
        H = C + strength * np.eye(len(w))
        B = H + float(info.damping) * np.eye(len(w))
        V = np.stack([np.asarray(truncated(B, g)), last], axis=1)
        weights = np.linalg.lstsq(V.T @ B @ V, V.T @ g, rcond=1e-12)[0]
        np.testing.assert_allclose(w - new, V @ weights, rtol=1e-6, atol=1e-9)
        check_step(info, w, new, written, H, f"step {k}")
        last = w - new


# --- the state -------------------------------------------------------------------------------


def test_the_last_direction_is_carried_only_if_the_momentum_uses_it():
    model, objective = eqx.nn.Linear(2, 1, key=jax.random.key(0)), cv.Supervised(cv.Gaussian())
    carry = cv.WarmStart(0.9), cv.Spring(0.7), cv.QuadraticMomentum()
    for policy in (cv.NoMomentum(), *carry):
        state = cv.NaturalGradient(objective, momentum=policy).init(model)
        assert (state.direction is not None) is (policy in carry)
