"""`cv.CG` against dense algebra in float64, for ordinary and for adversarial problems."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import curvature as cv
from tests.selection import slow_but

# The shape checks would refuse limits that are arrays.
pytestmark = pytest.mark.usefixtures("as_installed")

EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}


def with_spectrum(values, seed=0):
    """A symmetric matrix with these eigenvalues, and its eigenvectors as columns."""
    n = len(values)
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    return (Q * values) @ Q.T, Q


def symmetric(A):
    """The matrix as an operator known to be positive semidefinite, in its own dtype."""
    return lx.MatrixLinearOperator(jnp.asarray(A), lx.positive_semidefinite_tag)


def problem(exponents=(-1, 1), dtype=np.float32, n=40):
    """A with eigenvalues spaced evenly in their logarithms, and any b."""
    A = with_spectrum(np.logspace(*exponents, n))[0].astype(dtype)
    return A, np.random.default_rng(1).standard_normal(n).astype(dtype)


def cg(rtol=1e-5, max_steps=100, progress=None):
    """A solver for `solve`, whose limits are arrays, so that one program serves all limits."""
    solver = cv.CG(rtol, max_steps, progress)
    if progress is not None:  # the history of its progress has a static size
        return solver
    return eqx.tree_at(lambda cg: cg.max_steps, solver, np.asarray(max_steps, np.int32))


def solve(A, b, solver, **options):
    return _solve(A, b, _of_dtype(solver, b.dtype), options)


def _of_dtype(solver, dtype):
    """The solver with its limits in the dtype of the problem."""
    return jax.tree.map(
        lambda a: np.asarray(a, dtype) if eqx.is_inexact_array_like(a) else a, solver
    )


@eqx.filter_jit
def _solve(A, b, solver, options):
    return lx.linear_solve(symmetric(A), b, solver, options=options, throw=False)


def true_residual(A, b, x):
    """‖b − A x‖/‖b‖ in float64, for exactly the given matrix, right-hand side and solution."""
    A, b, x = (np.asarray(a, np.float64) for a in (A, b, x))
    return np.linalg.norm(b - A @ x) / np.linalg.norm(b)


def quadratic(A, b, x):
    A, b, x = (np.asarray(a, np.float64) for a in (A, b, x))
    return x @ A @ x / 2 - b @ x


def float_floor(A, b, x):
    """The error of the relative residual from the rounding of `A x` alone: eps‖A‖‖x‖/‖b‖."""
    eps = EPS[np.dtype(b.dtype).type]
    A, b, x = (np.asarray(a, np.float64) for a in (A, b, x))
    return eps * np.linalg.norm(A, 2) * np.linalg.norm(x) / np.linalg.norm(b)


def function(fn, like):
    """A function as an operator known to be positive semidefinite."""
    structure = jax.ShapeDtypeStruct(like.shape, like.dtype)
    return lx.FunctionLinearOperator(fn, structure, lx.positive_semidefinite_tag)


CALLS: list[None] = []


def count_products(A, b, solver, **options):
    """The solution, and the number of products with A that the solve computed."""
    CALLS.clear()
    solution = _solve_counted(A, b, _of_dtype(solver, b.dtype), options)
    jax.block_until_ready(solution.value)
    jax.effects_barrier()
    return solution, len(CALLS)


@eqx.filter_jit
def _solve_counted(A, b, solver, options):
    def product(v):
        jax.debug.callback(lambda: CALLS.append(None))
        return A @ v

    operator = cv.damped(function(product, b), 0.0)
    return lx.linear_solve(operator, b, solver, options=options, throw=False)


SPECTRA = {
    "log-spaced": np.logspace(-2, 1, 40),
    "one outlier": np.append(np.linspace(1, 2, 39), 1e4),
    "clustered": np.repeat([0.1, 1.0, 7.0, 50.0], 10),
    "rank 5, damped": np.append(np.logspace(0, 2, 5), np.zeros(35)) + 0.1,
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-4), (np.float64, 1e-11)])
def test_the_answer_is_that_of_a_dense_solve(x64, spectrum, dtype, rtol):
    values = SPECTRA[spectrum]
    A = with_spectrum(values)[0].astype(dtype)
    b = np.random.default_rng(1).standard_normal(40).astype(dtype)
    solution = solve(A, b, cg(rtol, 200))
    assert solution.result == lx.RESULTS.successful
    assert solution.value.dtype == dtype
    assert true_residual(A, b, solution.value) <= rtol + float_floor(A, b, solution.value)
    exact = np.linalg.solve(A.astype(np.float64), b.astype(np.float64))
    error = np.linalg.norm(np.asarray(solution.value) - exact) / np.linalg.norm(exact)
    assert error <= 1.1 * rtol * values.max() / values.min()


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_k_distinct_eigenvalues_take_k_steps(x64, k):
    A, _ = with_spectrum(np.resize(np.arange(1.0, k + 1), 40))
    b = np.random.default_rng(1).standard_normal(40)
    solution = solve(A, b, cg(1e-10, 100))
    assert solution.result == lx.RESULTS.successful
    assert solution.stats["num_steps"] == k


def test_k_steps_from_zero_cost_k_products_and_another_start_one_more():
    A, b = problem()
    for k in (1, 5):
        solution, products = count_products(A, b, cg(0.0, k))
        assert (int(solution.stats["num_steps"]), products) == (k, k)
        solution, products = count_products(A, b, cg(0.0, k), y0=jnp.asarray(b))
        assert (int(solution.stats["num_steps"]), products) == (k, k + 1)


def test_recomputed_residuals_cost_only_a_few_products():
    """The number of products exceeds that of steps only by the recomputed residuals."""
    A, b = problem((-6, 0))
    solution, products = count_products(A, b, cg(1e-4, 500))
    steps = int(solution.stats["num_steps"])
    assert steps <= products <= steps + 10


# --- adversarial problems --------------------------------------------------------------------

CASES = 40
SIZE = 48


def adversarial(kind, seed=7):
    """Float32 problems with A = JᵀJ + λI, as stacked arrays (J, λ, b).

    Before scaling and damping, the condition number of JᵀJ is at most 1e8.
    """
    rng = np.random.default_rng([seed, sum(map(ord, kind))])
    Js, dampings, rights = [], [], []
    for _ in range(CASES):
        U, V = (np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0] for _ in range(2))
        kappa, size = 10 ** rng.uniform(0, 8), 10 ** rng.uniform(-2, 2)
        values = size * np.logspace(0, -np.log10(kappa) / 2, SIZE)
        damping = 10 ** rng.uniform(-4, 1)
        J = (U * values) @ V.T
        b = J.T @ rng.standard_normal(SIZE)
        match kind:
            case "gradient-like b":
                pass
            case "any b":
                b = rng.standard_normal(SIZE)
            case "b in the smallest eigenvalue's direction, undamped":
                b, damping = V[:, -1], 0.0
            case "b mostly in the smallest eigenvalue's direction":
                b, damping = V[:, -1] + 1e-3 * V[:, 0], size**2 / kappa
            case "badly scaled columns":
                J = J * 10 ** rng.uniform(-3, 3, SIZE)
                b = J.T @ rng.standard_normal(SIZE)
            case "dead inputs":
                J = J * (rng.random(SIZE) < 0.5)
                b = J.T @ rng.standard_normal(SIZE)
            case "dead inputs, undamped":
                J, damping = J * (rng.random(SIZE) < 0.5), 0.0
                b = J.T @ rng.standard_normal(SIZE)
            case "rank 5, b outside the range, little damping":
                J[5:] = 0
                b, damping = rng.standard_normal(SIZE), size**2 * 10 ** rng.uniform(-8, -3)
            case "rank 5, b outside the range, undamped":
                J[5:] = 0
                b, damping = rng.standard_normal(SIZE), 0.0
            case "nearly the identity":
                J, damping = 1e-3 * J / size, 10.0
                b = rng.standard_normal(SIZE)
        Js.append(J), dampings.append(damping), rights.append(b)
    return tuple(np.asarray(a, np.float32) for a in (Js, dampings, rights))


KINDS = [
    "gradient-like b",
    "any b",
    "b in the smallest eigenvalue's direction, undamped",
    "b mostly in the smallest eigenvalue's direction",
    "badly scaled columns",
    "dead inputs",
    "dead inputs, undamped",
    "rank 5, b outside the range, little damping",
    "nearly the identity",
]
LIMITS = [(1e-3, 10), (1e-5, 200), (1e-2, 1000), (0.0, 25)]


LANES = len(KINDS) * CASES


def solve_all(J, damping, b, solver):
    """Solves all problems at once; they are repeated to `LANES`, so that one program serves all."""
    n = len(b)
    repeated = (np.resize(a, (LANES, *a.shape[1:])) for a in (J, damping, b))
    found = _solve_all(*repeated, _of_dtype(solver, b.dtype))
    return jax.tree.map(lambda a: np.asarray(a)[:n], found)


@eqx.filter_jit
def _solve_all(J, damping, b, solver):
    def one(J, damping, b):
        operator = function(lambda v: J.T @ (J @ v) + damping * v, b)
        solution = lx.linear_solve(operator, b, solver, throw=False)
        stats = {name: solution.stats[name] for name in ("num_steps", "residual", "quadratic")}
        return solution.value, stats, solution.result == lx.RESULTS.successful

    return jax.vmap(one)(J, damping, b)


@pytest.mark.parametrize(("rtol", "max_steps"), slow_but([LIMITS[0], LIMITS[3]], LIMITS))
def test_reported_numbers_are_true_for_every_adversarial_problem(rtol, max_steps):
    """The solution is finite and lowers the quadratic.

    `residual` and `quadratic` are the true numbers, up to the rounding error of one product,
    eps‖A‖‖x‖. The result is "successful" only if ‖b − Ax‖ ≤ rtol‖b‖.
    """
    J, damping, b = (np.concatenate(a) for a in zip(*(adversarial(kind) for kind in KINDS)))
    x, stats, successful = solve_all(J, damping, b, cg(rtol, max_steps))
    x = np.asarray(x)
    assert np.isfinite(x).all()
    assert (stats["num_steps"] <= max_steps).all()
    for i in range(len(b)):
        where = f"{KINDS[i // CASES]}, case {i % CASES}"
        J64, b64 = J[i].astype(np.float64), b[i].astype(np.float64)
        A = J64.T @ J64 + np.float64(damping[i]) * np.eye(SIZE)
        truth, floor = true_residual(A, b[i], x[i]), float_floor(A, b[i], x[i])
        phi = quadratic(A, b64, x[i])
        assert phi < 0, where
        assert abs(stats["residual"][i] - truth) <= 0.1 * truth + floor, where
        scale = np.linalg.norm(x[i].astype(np.float64)) * np.linalg.norm(b64)
        slack = (EPS[np.float32] + floor) * scale
        assert abs(stats["quadratic"][i] - phi) <= slack + 1e-5 * abs(phi), where
        if successful[i]:
            assert truth <= 1.01 * rtol + floor, where
        if rtol and not successful[i]:
            assert truth > 0.9 * rtol - floor, where


@pytest.mark.parametrize(("rtol", "max_steps"), slow_but([(1e-3, 10)], [(1e-3, 10), (0.0, 100)]))
def test_without_damping_and_without_a_solution_the_quadratic_is_still_lowered(rtol, max_steps):
    """C x = b has no solution, and ½xᵀCx − bᵀx has no minimum.

    The solver must not report a solution that is only rounding error.
    """
    J, damping, b = adversarial("rank 5, b outside the range, undamped")
    x, stats, successful = solve_all(J, damping, b, cg(rtol, max_steps))
    assert np.isfinite(x).all()
    assert not successful.any()
    for i in range(CASES):
        A = J[i].astype(np.float64).T @ J[i]
        truth, floor = true_residual(A, b[i], x[i]), float_floor(A, b[i], x[i])
        assert quadratic(A, b[i], x[i]) < 0, i
        assert abs(stats["residual"][i] - truth) <= 0.1 * truth + floor, i


# A recursive residual below 1e-19 of b has a square that underflows in float32.
@pytest.mark.parametrize("max_steps", slow_but([100], [100, 300]))
def test_steps_past_convergence_do_not_spoil_the_answer(max_steps):
    """`rtol=0` takes `max_steps` steps; the accuracy must stay that of float32."""
    for kind in ("any b", "gradient-like b", "nearly the identity"):
        J, damping, b = adversarial(kind)
        damping = np.maximum(damping, np.float32(1e-2) * np.linalg.norm(J, 2, axis=(1, 2)) ** 2)
        x, stats, _ = solve_all(J, damping, b, cg(0.0, max_steps))
        for i in range(CASES):
            A = J[i].astype(np.float64).T @ J[i] + np.float64(damping[i]) * np.eye(SIZE)
            truth = true_residual(A, b[i], x[i])
            assert truth <= 2 * float_floor(A, b[i], x[i]), f"{kind}, case {i}"
            assert stats["residual"][i] <= 3 * float_floor(A, b[i], x[i])


SCALES = [1e-30, 1e-20, 1e-19, 1e-18, 1e-10, 1e-5, 1e5, 1e10, 1e15, 1e18, 1e20, 1e30]


def test_the_size_of_b_or_of_the_operator_changes_nothing_but_the_size_of_the_answer():
    A, b = problem()
    solver = cg(1e-3, 200)
    reference = solve(A, b, solver)
    for scale in SCALES:
        power = np.float32(2.0 ** np.round(np.log2(scale)))
        solution = solve(A, b * power, solver)
        assert solution.result == lx.RESULTS.successful, scale
        truth = true_residual(A, b * power, solution.value)
        assert truth <= 1.01e-3, scale
        np.testing.assert_allclose(solution.stats["residual"], truth, rtol=0.02)
        np.testing.assert_allclose(solution.value / power, reference.value, rtol=1e-4)
        assert abs(solution.stats["num_steps"] - reference.stats["num_steps"]) <= 1, scale
    for scale in np.float32([1e-14, 1e-7, 1e7, 1e14]):
        solution = solve(scale * A, b, solver)
        assert solution.result == lx.RESULTS.successful, scale
        assert true_residual(scale * A, b, solution.value) <= 1.01e-3, scale


def test_b_of_zero_is_solved_by_zero_in_no_step_and_from_any_start():
    """For b = 0 only x = 0 is within a tolerance relative to ‖b‖."""
    (A, _), zero = problem(), np.zeros(40, np.float32)
    solution, products = count_products(A, zero, cg())
    numbers = [solution.stats[name] for name in ("num_steps", "quadratic", "residual")]
    assert [products, *map(float, numbers)] == [0, 0, 0, 0]
    started = (solve(A, zero, cg(max_steps=n), y0=jnp.ones(40, jnp.float32)) for n in (1, 100))
    for found in (solution, *started):
        assert found.result == lx.RESULTS.successful
        assert not np.any(found.value)


def test_a_b_that_is_not_finite_is_reported_and_the_answer_is_finite():
    A, _ = problem()
    for poison, max_steps in itertools.product((np.nan, np.inf, -np.inf), (1, 50)):
        b = np.ones(40, np.float32)
        b[3] = poison
        solution = solve(A, b, cg(max_steps=max_steps))
        assert solution.result == lx.RESULTS.nonfinite_input
        assert np.isfinite(solution.value).all()
        assert not np.isfinite(solution.stats["residual"])


@jax.jit
def solve_poisoned(A, poison, b):
    """Solves with an operator that adds `poison` if the first entry of its vector is not zero."""
    operator = function(lambda v: A @ v + jnp.where(v[0] != 0, poison, jnp.float32(0)), b)
    solution = lx.linear_solve(cv.damped(operator, 0.0), b, cv.CG(), throw=False)
    return solution.value, solution.stats["num_steps"], solution.result


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_the_answer_for_an_operator_that_gives_nan_is_the_last_finite_one(poison):
    A, _ = problem()
    b = np.ones(40, np.float32)
    x, _, result = solve_poisoned(A, np.float32(poison), b)
    assert result == lx.RESULTS.nonfinite_input
    assert not np.any(x)
    # The first entry of b is zero, and that of A b is not: only the first product is finite.
    b[0] = 0
    x, steps, result = solve_poisoned(A, np.float32(poison), b)
    assert result == lx.RESULTS.breakdown
    assert steps == 1
    np.testing.assert_allclose(x, solve(A, b, cg(0.0, 1)).value, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_indefinite_operator_breaks_down_and_the_answer_still_lowers_the_quadratic(x64, dtype):
    A = with_spectrum(np.linspace(-1, 10, 40))[0].astype(dtype)
    b = np.random.default_rng(1).standard_normal(40).astype(dtype)
    solution = solve(A, b, cg(1e-6, 100))
    assert solution.result == lx.RESULTS.breakdown
    assert quadratic(A, b, solution.value) < 0
    assert solution.stats["residual"] == pytest.approx(true_residual(A, b, solution.value), rel=0.1)
    negative = solve(-np.eye(40, dtype=dtype), b, cg())
    assert negative.result == lx.RESULTS.breakdown
    assert not np.any(negative.value)


def test_a_dead_input_stays_exactly_at_zero_without_damping():
    A, _ = problem()
    dead = np.arange(40) % 3 == 0
    A[dead], A[:, dead] = 0, 0
    b = np.where(dead, 0, 1).astype(np.float32)
    solution = solve(A, b, cg(1e-3, 200))
    assert solution.result == lx.RESULTS.successful
    assert not np.any(solution.value[dead])
    assert np.all(solution.value[~dead])


def test_an_unreachable_tolerance_is_called_stagnation_not_success():
    A, b = problem((-5, 0))
    solution = solve(A, b, cg(1e-7, 5000))
    assert solution.result == lx.RESULTS.stagnation
    truth, floor = true_residual(A, b, solution.value), float_floor(A, b, solution.value)
    assert abs(solution.stats["residual"] - truth) <= 0.1 * truth + floor


# --- first iterates, preconditioners and stopping rules --------------------------------------


def test_a_start_saves_steps_or_changes_nothing(x64):
    """An exact first iterate needs no step; with a bad one the solution is just as accurate."""
    A, b = problem((-2, 1), np.float64)
    exact, solver = np.linalg.solve(A, b), cg(1e-6, 200)
    starts = np.zeros(40), exact * (1 + 1e-4), 1e6 * np.ones(40), exact
    solutions = [solve(A, b, solver, y0=jnp.asarray(y0)) for y0 in starts]
    cold, good, _, at_once = (solution.stats["num_steps"] for solution in solutions)
    assert at_once == 0 < good < cold
    np.testing.assert_array_equal(solutions[-1].value, exact)
    for solution in solutions:
        assert solution.result == lx.RESULTS.successful
        assert true_residual(A, b, solution.value) <= 1e-6
        np.testing.assert_allclose(
            solution.stats["quadratic"], quadratic(A, b, solution.value), rtol=1e-9
        )


def test_a_preconditioner_is_right_and_saves_steps(x64):
    """A diagonal preconditioner saves most steps, and the inverse all steps but one."""
    scales = np.logspace(-2, 2, 40)
    A = scales[:, None] * with_spectrum(np.linspace(1, 2, 40))[0] * scales
    b = np.random.default_rng(1).standard_normal(40)
    solver, inverse = cg(1e-8, 1000), np.linalg.inv(A)
    plain = solve(A, b, solver)
    preconditioners = np.diag(1 / np.diag(A)), (inverse + inverse.T) / 2
    better, perfect = (solve(A, b, solver, preconditioner=symmetric(M)) for M in preconditioners)
    assert perfect.stats["num_steps"] == 1
    assert better.stats["num_steps"] < 20 < plain.stats["num_steps"]
    for solution in (better, perfect):
        truth = true_residual(A, b, solution.value)
        assert solution.result == lx.RESULTS.successful
        assert truth <= 1e-8
    np.testing.assert_allclose(
        better.stats["residual"], true_residual(A, b, better.value), rtol=0.1
    )


def test_the_size_of_a_preconditioner_does_not_matter():
    A, b = problem()
    one, *others = (
        solve(A, b, cg(1e-4, 200), preconditioner=symmetric(scale * np.eye(40, dtype=np.float32)))
        for scale in np.float32([1, 1e-8, 1e8])
    )
    for solution in others:
        assert solution.result == lx.RESULTS.successful
        assert true_residual(A, b, solution.value) <= 1.01e-4
        assert abs(solution.stats["num_steps"] - one.stats["num_steps"]) <= 1


BAD = [("y0", np.nan), ("y0", np.inf)]
BAD += [("preconditioner", poison) for poison in (np.nan, np.inf, -1.0, 0.0)]


@pytest.mark.parametrize(("option", "poison"), BAD)
def test_a_bad_start_or_preconditioner_is_never_reported_as_a_good_answer(option, poison):
    A, b = problem()
    bad = np.ones(40, np.float32)
    bad[3] = poison
    if option == "preconditioner":
        bad = symmetric(np.where(np.eye(40) == 1, bad, np.float32(0)))
    solution = solve(A, b, cg(1e-4, 20), **{option: bad})
    assert solution.result != lx.RESULTS.successful
    truth = true_residual(A, b, solution.value)
    np.testing.assert_allclose(solution.stats["residual"], truth, rtol=0.01)


@pytest.mark.parametrize(("stop", "window"), [(25, 10), (80, 10), (112, 12), (135, 14)])
def test_the_window_of_martens_rule_grows_with_the_steps(x64, stop, window):
    """With T = tridiag(-1, 2, -1) and b = e₁, φ_i = -i / (2 (i + 1)): the rule is i (i-k+1) > 1/ε.

    The test uses a closed form instead of a second CG run, whose rounding would change the stop.
    """
    n = 200
    T = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    epsilon = 1 / (stop * (stop - window + 1) - 0.5)
    solution = solve(T, np.eye(n)[0], cg(1e-14, n, epsilon))
    assert solution.stats["num_steps"] == stop
    assert solution.result == lx.RESULTS.successful


def test_max_steps_is_a_result_or_an_error_as_asked():
    A, b = problem((-2, 1))
    solution = solve(A, b, cg(1e-5, 3))
    assert solution.result == lx.RESULTS.max_steps_reached
    assert solution.stats["num_steps"] == 3
    assert quadratic(A, b, solution.value) < 0
    with pytest.raises(Exception, match="maximum number"):
        eqx.filter_jit(lx.linear_solve)(symmetric(A), b, cv.CG(rtol=1e-5, max_steps=3))


def test_more_steps_never_raise_the_quadratic():
    A, b = problem((-6, 1))
    phis = [quadratic(A, b, solve(A, b, cg(0.0, k)).value) for k in (1, 3, 9)]
    assert all(later < before for before, later in itertools.pairwise(phis))


# --- jit, vmap, pytrees, derivatives ---------------------------------------------------------


def test_a_pytree_of_leaves_is_solved_as_one_vector(x64):
    A, _ = with_spectrum(np.logspace(-1, 1, 24))
    b = np.random.default_rng(1).standard_normal(24)
    flat = solve(A, b, cg(1e-10))

    def unravel(v):
        return {"w": v[:20].reshape(4, 5), "b": (v[20:23], v[23])}

    def ravel(tree):
        return jnp.concatenate([tree["w"].ravel(), tree["b"][0], tree["b"][1][None]])

    tree = unravel(jnp.asarray(b))
    operator = lx.FunctionLinearOperator(
        lambda t: unravel(jnp.asarray(A) @ ravel(t)),
        jax.eval_shape(lambda: tree),
        lx.positive_semidefinite_tag,
    )
    solution = eqx.filter_jit(lx.linear_solve)(operator, tree, cv.CG(rtol=1e-10), throw=False)
    # The relative error of each solution is at most κ·rtol, with κ = 100.
    difference = np.linalg.norm(ravel(solution.value) - flat.value)
    assert difference <= 2 * 100 * 1e-10 * np.linalg.norm(flat.value)
    assert solution.stats["num_steps"] == flat.stats["num_steps"]
    assert solution.stats["residual"] <= 1e-10


def test_vmap_gives_every_right_hand_side_its_own_solve():
    """Lanes that end at once (zero, NaN), early or late do not change the other lanes."""
    A, Q = with_spectrum(np.logspace(-1, 1, 40))
    A, Q = A.astype(np.float32), Q.astype(np.float32)
    random = np.random.default_rng(1).standard_normal((2, 40)).astype(np.float32)
    bs = np.stack([Q[:, 0], np.zeros(40, np.float32), *random, np.full(40, np.nan, np.float32)])
    solver = cv.CG(rtol=1e-3, max_steps=12)

    def one(b):
        solution = lx.linear_solve(symmetric(A), b, solver, throw=False)
        return solution.value, solution.stats["num_steps"], solution.stats["residual"]

    one_by_one = jax.jit(one)
    for lane, alone in zip(zip(*jax.jit(jax.vmap(one))(bs)), map(one_by_one, bs)):
        assert np.linalg.norm(lane[0] - alone[0]) <= 1e-2 * np.linalg.norm(alone[0])
        assert lane[1] == alone[1]
        # For an eigenvector one step suffices, and the residual is rounding error of size κ·eps.
        np.testing.assert_allclose(lane[2], alone[2], rtol=0.02, atol=100 * EPS[np.float32])


def test_vmap_is_the_loop_where_residuals_are_recomputed():
    """Different lanes recompute their residuals at different steps.

    The rounding of the batched and of the single solve differs. Where `max_steps` ends a solve, its
    distance to the minimum therefore differs, too.
    """
    problems, solver = adversarial("badly scaled columns"), cg(1e-4, 300)
    _, stats, successful = solve_all(*problems, solver)
    for i in range(0, CASES, 8):
        lane = [a[i : i + 1] for a in problems]
        _, alone, alone_successful = _solve_all(*lane, _of_dtype(solver, np.float32))
        assert successful[i] == alone_successful[0]
        J, damping, b = (a[0].astype(np.float64) for a in lane)
        minimum = -b @ np.linalg.solve(J.T @ J + damping * np.eye(SIZE), b) / 2
        short, alone_short = stats["quadratic"][i] - minimum, alone["quadratic"][0] - minimum
        np.testing.assert_allclose(short, alone_short, rtol=0.2, atol=1e-3 * abs(minimum))


def test_an_operator_not_known_to_be_definite_is_refused():
    operator = lx.MatrixLinearOperator(jnp.eye(3))
    with pytest.raises(ValueError, match="positive definite"):
        lx.linear_solve(operator, jnp.ones(3), cv.CG())
