"""Momentum: the equations of SPRING and of the quadratic model's plane, against dense ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from curvature.momentum import Direction
from tests.curvature import cases
from tests.curvature.written import Written, at, poisoned, trajectory
from tests.selection import slow_but

SOLVERS = {
    "sample space": cv.SampleSpace(),
    "Cholesky": lx.Cholesky(),
    "CG": cv.CG(rtol=1e-13, max_steps=500),
}
DECAY, S, STEPS, BAD = 0.8, 0.5, 5, 2
RNG = np.random.default_rng(0)


# --- SPRING ----------------------------------------------------------------------------------


def drawn(case, keys):
    """The curvature that steps with these keys use, at given weights: a draw is no law."""

    @eqx.filter_jit
    def matrix(model, key):
        linearisation = case.objective.linearise(model, case.batch, trainable=case.trainable)
        operator = cv.SampledFisher(cases.SAMPLES).operator(
            linearisation, key=jax.random.split(key)[1]
        )
        return operator.as_matrix()

    unravel = jax.flatten_util.ravel_pytree(eqx.filter(case.model, case.trainable))[1]
    return lambda w, k: np.asarray(matrix(eqx.combine(unravel(w), case.model), keys[k]))


SPRING = [
    ("tanh", "gaussian", "true_fisher"),
    ("tanh", "categorical", "exact_fisher"),
    ("several_terms", "categorical", "empirical_fisher"),
]


@pytest.mark.parametrize(
    ("kind", "likelihood", "name"),
    slow_but([SPRING[0]], SPRING),
)
def test_spring_solves_its_equation_by_every_solver(x64, kind, likelihood, name):
    """(C + λI)d = g + λμφ, with φ = 0 at first and after the rejection of step 2."""
    case, keys = cases.MODELS[kind](likelihood), jax.random.split(jax.random.key(5), STEPS)
    batches = poisoned(case, STEPS, BAD)

    @jax.jit
    def run():
        found = {}
        for solver in SOLVERS:
            optimiser = cv.NaturalGradient(
                case.objective,
                curvature=cases.curvature(name, likelihood),
                solver=SOLVERS[solver],
                damping=cv.LevenbergMarquardt(0.03),
                search=optx.LearningRate(S),
                momentum=cv.Spring(DECAY),
            )
            found[solver] = trajectory(case, optimiser, keys, batches)
        return found

    written = Written(case, "exact_fisher" if name == "true_fisher" else name)
    matrix = drawn(case, keys) if name == "true_fisher" else lambda w, k: written(w)[2]
    for solver, (ws, infos) in run().items():
        last = np.zeros(len(written.w))
        for k, (w, new) in enumerate(zip(np.asarray(ws)[:-1], np.asarray(ws)[1:], strict=True)):
            info = at(infos, k)
            assert info.accepted == (k != BAD)
            if k == BAD:
                assert np.array_equal(new, w)
                last = np.zeros_like(w)
                continue
            (loss, g, _), C, damping = written(w), matrix(w, k), float(info.damping)
            d = np.linalg.solve(C + damping * np.eye(len(w)), g + damping * DECAY * last)
            message = f"{solver}, step {k}"
            np.testing.assert_allclose(w - new, S * d, rtol=1e-7, atol=1e-10, err_msg=message)
            metric = S**2 * d @ C @ d / 2
            np.testing.assert_allclose(info.loss, loss, rtol=1e-10)
            np.testing.assert_allclose(info.grad_norm, np.linalg.norm(g), rtol=1e-7)
            np.testing.assert_allclose(info.step_norm, S * np.linalg.norm(d), rtol=1e-7)
            np.testing.assert_allclose(info.metric_step, metric, rtol=1e-6, err_msg=message)
            ratio = (loss - written.loss(new)) / (S * d @ g - metric)
            np.testing.assert_allclose(info.reduction_ratio, ratio, rtol=1e-6, err_msg=message)
            assert info.solver_residual < 1e-10
            last = d


def test_spring_is_the_formula_of_its_paper(x64):
    """ζ = ρ − μAφ, d = Aᵀ(AAᵀ + λI)⁻¹ζ + μφ, with rows A and residuals ρ of least squares."""
    n, P, damping = 4, 7, 1e-2
    A, y = RNG.normal(size=(n, P)) / n**0.5, RNG.normal(size=n) / n**0.5
    model = eqx.nn.Linear(P, 1, use_bias=False, key=jax.random.key(0))
    batch = jnp.asarray(A * n**0.5), jnp.asarray(y * n**0.5)[:, None]
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Gaussian(1.0)),
        damping=damping,
        momentum=cv.Spring(DECAY),
        solver=cv.SampleSpace(),
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
    """On fresh batches, of which each says little: for a small λ, and for any."""
    # A direction of small curvature that all batches share is where a larger λ adds them up.
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


@pytest.mark.parametrize("decay", [1.0, 1.5, -0.1, float("nan"), np.ones(2)])
def test_spring_refuses(as_installed, decay):
    with pytest.raises(ValueError, match=r"`Spring\(decay=...\)` must"):
        cv.Spring(decay)


# --- the plane of two directions -------------------------------------------------------------


def plane(seed=0, P=6):
    """C of known spectrum, a gradient, a direction and the last one."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(P, P)))[0]
    C = Q @ np.diag([3.0, 1.0, 0.3, 0.1, 0.0, 0.0]) @ Q.T
    return C, *rng.normal(size=(3, P))


def combined(C, g, d, last, damping, dtype=np.float64):
    """What the policy makes of d, and its numbers."""
    C, g, d, last = (jnp.asarray(a, dtype) for a in (C, g, d, last))
    found = Direction(d, d @ g, d @ C @ d, d @ d)
    operator = lx.MatrixLinearOperator(C, lx.positive_semidefinite_tag)
    damping = jnp.asarray(damping, dtype)
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
    """With φ = 0 or parallel to d there is no plane: the minimum along d is left."""
    C, g, d, _ = plane()
    g, d = size * g, size * d
    direction = combined(C, g, d, multiple * d, 0.1, dtype)
    alpha = (g @ d) / (d @ C @ d + 0.1 * d @ d)
    rtol = 1e-3 if dtype == np.float32 else 1e-6
    np.testing.assert_allclose(direction.vector, alpha * d, rtol=rtol)
    check_numbers(direction, C, g, rtol)


@pytest.mark.parametrize("size", [1e-11, 1.0, 1e11])
def test_units_do_not_matter_in_float32(size):
    """Squares of squares of such numbers are out of the range of float32."""
    C, g, d, last = plane()
    direction = combined(C, size * g, size * d, size * last, 0.1, np.float32)
    V = np.stack([d, last], axis=1)
    weights = np.linalg.solve(V.T @ (C + 0.1 * np.eye(6)) @ V, V.T @ g)
    np.testing.assert_allclose(direction.vector / size, V @ weights, rtol=1e-3)


def test_an_exact_solution_is_kept(x64):
    C, g, _, last = plane()
    d = np.linalg.solve(C + 0.1 * np.eye(len(C)), g)
    direction = combined(C, g, d, last, 0.1)
    np.testing.assert_allclose(direction.vector, d, rtol=1e-9)
    check_numbers(direction, C, g)


def test_no_direction_stays_none(x64):
    """Of a zero gradient, with and without a last direction."""
    C, _, _, last = plane()
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
        cv.Supervised(cv.Gaussian()), momentum=cv.QuadraticMomentum(), damping=0.1
    )
    _, _, info = optimiser.step(model, solved, optimiser.init(model))
    assert cv.RESULTS[info.result].startswith("The gradient is zero")
    new, state, info = optimiser.step(model, other, optimiser.init(model))
    assert info.accepted
    _, _, info = optimiser.step(new, (x, jax.vmap(new)(x)), state)
    assert cv.RESULTS[info.result].startswith("The gradient is zero")


@pytest.mark.parametrize("l2", [None, 0.2])
def test_steps_with_truncated_solves_are_those_written_densely(x64, l2):
    case, solver = cases.tanh("categorical"), cv.CG(rtol=1e-12, max_steps=3)
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical(), l2=l2),
        solver=solver,
        damping=cv.LevenbergMarquardt(0.03),
        momentum=cv.QuadraticMomentum(),
    )
    keys = jax.random.split(jax.random.key(0), 3)
    ws, infos = jax.jit(lambda: trajectory(case, optimiser, keys))()
    strength = 0.0 if l2 is None else l2
    written = Written(case, "gauss_newton", l2=strength)
    last = np.zeros(len(written.w))
    for k, (w, new) in enumerate(zip(np.asarray(ws)[:-1], np.asarray(ws)[1:], strict=True)):
        info, (loss, g, C) = at(infos, k), written(w)
        H = C + strength * np.eye(len(w))
        B = H + float(info.damping) * np.eye(len(w))
        matrix = lx.MatrixLinearOperator(jnp.asarray(B), lx.positive_semidefinite_tag)
        d = np.asarray(lx.linear_solve(matrix, jnp.asarray(g), solver, throw=False).value)
        V = np.stack([d, last], axis=1)
        weights = np.linalg.lstsq(V.T @ B @ V, V.T @ g, rcond=1e-12)[0]
        np.testing.assert_allclose(w - new, V @ weights, rtol=1e-6, atol=1e-9)
        last = w - new
        predicted = last @ g - last @ H @ last / 2
        np.testing.assert_allclose(info.metric_step, last @ H @ last / 2, rtol=1e-6)
        ratio = (loss - written.loss(new)) / predicted
        np.testing.assert_allclose(info.reduction_ratio, ratio, rtol=1e-6)
